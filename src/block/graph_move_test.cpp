// Nodes that move from one thread's graph to another's.
#include <thread>

#include "block/test_driver.hpp"
#include "io/reactor_thread.hpp"
#include "io/visit.hpp"
#include "task/group.hpp"

namespace tidemark::test {
namespace {

using namespace std::chrono_literals;

// Knows on which threads it was told to go and to come.
class Traveller final : public TestParent {
 public:
  using TestParent::TestParent;
  void leave() noexcept override { left = std::this_thread::get_id(); }
  void arrive() noexcept override { arrived = std::this_thread::get_id(); }
  decltype(std::this_thread::get_id()) left{}, arrived{};
};

class MoveTest : public BlockTest {
 protected:
  ~MoveTest() override {
    close_all();
    there([](Graph& at) -> Task<> { return at.close_all(); });
  }
  // Runs a step on the other thread.
  void there(std::function<Task<>(Graph&)> step) { run(visit(reactor, elsewhere->reactor(), step(other))); }
  void move(std::string_view name) {
    const auto moving = [&]() -> Task<> {
      NodeList nodes = co_await graph.take_out(node(name));
      co_await visit(reactor, elsewhere->reactor(), put_in(other, std::move(nodes)));
    };
    run(moving());
  }
  void move_back(const std::string& name) {
    NodeList nodes = run(visit(reactor, elsewhere->reactor(), take_out(other, name)));
    graph.put_in(std::move(nodes));
  }
  std::string refusal(std::string_view name) {
    const Result<> movable = graph.check_movable(node(name));
    return movable ? "" : movable.error().message();
  }
  static Task<> put_in(Graph& at, NodeList nodes) {
    at.put_in(std::move(nodes));
    co_return;
  }
  static Task<NodeList> take_out(Graph& at, std::string name) { co_return co_await at.take_out(*at.find(name)); }
  void add_owned(std::string name) {
    NodeOptions owned;
    owned.monitor_owned = true;
    add_disk(std::move(name), {}, std::move(owned));
  }

  std::unique_ptr<ReactorThread> elsewhere = *ReactorThread::start(*make_threads_backend(2), "elsewhere");
  Graph other{elsewhere->reactor(), graph};
};

// What its store does may begin again by itself.
TEST_F(MoveTest, NotBeforeItsTrackingHasSettled) {
  add_owned("disk");
  auto tracking = std::make_unique<TestTracking>(reactor);
  TestTracking& restless = *tracking;
  restless.settles_after = 3;
  node("disk").set_tracking(std::move(tracking));
  move("disk");
  EXPECT_EQ(restless.settlings, 3);
}

TEST_F(MoveTest, AllThatIsConnectedGoesAlong) {
  add_owned("file");
  add_owned("alone");
  auto driver = std::make_unique<Traveller>(reactor, TestDriverOptions());
  Traveller& traveller = *driver;
  driver->children.push_back(*Edge::attach(node("file"), Role::file, {}, "node 'top'"));
  NodeOptions owned;
  owned.monitor_owned = true;
  add("top", std::move(driver), owned);
  move("file");
  EXPECT_EQ(graph.find("top"), nullptr);
  EXPECT_EQ(graph.find("file"), nullptr);
  EXPECT_NE(graph.find("alone"), nullptr);
  EXPECT_EQ(traveller.left, std::this_thread::get_id());
  there([&](Graph& at) -> Task<> {
    EXPECT_EQ(traveller.arrived, std::this_thread::get_id());
    for (const char* name : {"top", "file"}) {
      BlockNode* node = at.find(name);
      EXPECT_TRUE(node && &node->graph() == &at && &node->reactor() == &elsewhere->reactor());
      EXPECT_EQ(&node->driver().home().reactor(), &elsewhere->reactor());
    }
    co_return;
  });
  move_back("top");
  EXPECT_TRUE(graph.find("top") && graph.find("file"));
}

TEST_F(MoveTest, WhatSomebodyUsesStays) {
  add_owned("disk");
  attach(node("disk"), {P::consistent_read, P::all}, "export 'e'");
  EXPECT_EQ(refusal("disk"), "Node 'disk' cannot change its thread: it is in use by export 'e'");
  EXPECT_EQ(error_of([&]() -> Task<> { (void)co_await graph.take_out(node("disk")); }()).code(), Errc::busy);
  roots.clear();
  EXPECT_EQ(refusal("disk"), "");
  {
    const auto drained = run(graph.drain(node("disk")));
    EXPECT_NE(refusal("disk"), "");
  }
  add_disk("opened");                            // not the monitor's, and not used yet
  EXPECT_NE(refusal("opened"), "");
}

// A request that outlived its user is waited for; who comes meanwhile keeps the node where it is.
TEST_F(MoveTest, WhatIsUnderWayEndsFirst) {
  add_owned("disk");
  TestDriver& driver = disk(node("disk"));
  bool taken = false;
  const auto taking = [&]() -> Task<> {
    NodeList nodes = co_await graph.take_out(node("disk"));
    taken = true;
    graph.put_in(std::move(nodes));
  };
  std::optional<InFlight> request(std::in_place, node("disk"));
  auto first = start(taking());
  settle();
  EXPECT_FALSE(first.done());
  request.reset();
  EXPECT_TRUE(finish(first).ok());
  EXPECT_TRUE(taken);
  request.emplace(node("disk"));
  auto second = start(taking());
  settle();
  attach(node("disk"));
  request.reset();
  EXPECT_FALSE(finish(second).ok());
  EXPECT_EQ(graph.find("disk"), &node("disk"));
  EXPECT_EQ(driver.count(Call::close), 0u);
}

// Locks and events that were made here work there, and back here.
TEST_F(MoveTest, RequestsWaitForEachOtherWhereverTheyAre) {
  TestDriverOptions options;
  options.limits.request_align = 4096;           // so that small writes read, change and write a unit
  NodeOptions owned;
  owned.monitor_owned = true;
  add_disk("disk", options, owned);
  const auto write_all = [](Graph& at) -> Task<> {
    std::unique_ptr<Edge> edge =
        *Edge::attach(*at.find("disk"), Role::root, {P::consistent_read | P::write, P::all}, "test");
    const auto write = [&edge](std::uint64_t offset) -> Task<> {
      const std::vector<std::byte> byte(512, static_cast<std::byte>(offset / 512 + 1));
      co_await edge->write(offset, Buffers::of_const(byte));
    };
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t offset = 0; offset < 16 * KiB; offset += 512) group.spawn(write(offset));
      co_await group.join();
    };
    co_await with_group(at.reactor(), body);
    std::vector<std::byte> content(16 * KiB);
    co_await edge->read(0, MutableBytes(content));
    for (std::size_t i = 0; i < content.size(); ++i) EXPECT_EQ(content[i], static_cast<std::byte>(i / 512 + 1));
  };
  for (int i = 0; i < 10; ++i) {
    move("disk");
    there(write_all);
    move_back("disk");
    run(write_all(graph));
  }
}

TEST_F(MoveTest, NamesThatAreMadeUpAreUniqueInASet) {
  add_disk("");
  const std::string here = graph.nodes().back()->name();
  there([&](Graph& at) -> Task<> {
    auto driver = std::make_unique<TestDriver>(at.reactor(), TestDriverOptions());
    BlockNode* added = co_await at.add(NodeOptions(), std::move(driver));
    EXPECT_NE(added->name(), here);
  });
}

TEST_F(MoveTest, ADrainGivesUp) {
  add_disk("slow").hold();
  Edge& edge = attach(node("slow"));
  std::vector<std::byte> sector(512);
  auto reading = start(edge.read(0, MutableBytes(sector)));
  const Error late = error_of([&]() -> Task<> { (void)co_await graph.drain_within(node("slow"), 5ms); }());
  EXPECT_EQ(late.code(), Errc::timed_out);
  EXPECT_FALSE(node("slow").quiesced());
  disk(node("slow")).release();
  EXPECT_TRUE(finish(reading).ok());
  const auto drained = run(graph.drain_within(node("slow"), 10s));
  EXPECT_TRUE(node("slow").quiesced());
}

}  // namespace
}  // namespace tidemark::test
