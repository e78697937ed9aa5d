// Who hears that a flush has failed: everyone who may have written what it has lost, once.
#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

// What a format or filter does: its flush is its first child's, too.
class Flushing final : public TestParent {
 public:
  using TestParent::TestParent;
  Task<> flush() override { return children.at(0)->flush(); }
};

class Storage final : public TestDriver {
 public:
  using TestDriver::TestDriver;
  Task<> flush() override {
    co_await TestDriver::flush();
    const std::optional<Errc> failed = std::exchange(failure, std::nullopt);
    if (failed) co_await Error(*failed, "the cache is gone", EIO);
  }
  std::optional<Errc> failure;      // of the next one
};

class NodeFlush : public BlockTest {
 protected:
  NodeFlush() {
    auto driver = std::make_unique<Storage>(reactor, TestDriverOptions());
    storage = driver.get();
    add("storage", std::move(driver));
  }

  // Stands on what is named first, and has what follows as its backing file.
  BlockNode& over(std::string name, std::vector<Child> below) {
    auto driver = std::make_unique<Flushing>(reactor, TestDriverOptions());
    for (const Child& child : below) driver->children.push_back(*Edge::attach(*child.node, child.role, {}, name));
    return add(std::move(name), std::move(driver));
  }
  void fail_flush(Errc code = Errc::io) { storage->failure = code; }
  bool flushes(Edge& user) { return reactor.run(user.flush()).ok(); }
  std::string told(Edge& user) { return error_of(user.flush()).message(); }

  Storage* storage = nullptr;
};

constexpr Permissions nothing{Permissions::none, Permissions::all};
const std::string lost = "what was written before may be lost: the cache is gone";

TEST_F(NodeFlush, EveryUserIsToldOnce) {
  Edge& guest = attach(node("storage"));
  Edge& other = attach(node("storage"));
  fail_flush();
  EXPECT_EQ(told(other), "the cache is gone");
  Edge& late = attach(node("storage"));
  EXPECT_TRUE(flushes(other));
  EXPECT_TRUE(flushes(late));
  EXPECT_EQ(told(guest), lost);
  EXPECT_EQ(storage->count(Call::flush), 4u);
  EXPECT_TRUE(flushes(guest));
}

TEST_F(NodeFlush, ThroughWhatStandsOnIt) {
  BlockNode& format = over("format", {{&node("storage"), Role::file}});
  BlockNode& filter = over("filter", {{&format, Role::filtered}});
  Edge& above = attach(filter);
  Edge& beside = attach(format);
  Edge& below = attach(node("storage"), nothing);
  fail_flush();
  EXPECT_EQ(told(beside), "the cache is gone");
  EXPECT_EQ(told(above), lost);
  EXPECT_EQ(told(below), lost);
  EXPECT_TRUE(flushes(beside) && flushes(above) && flushes(below));
}

// What was written to a disk is not in what its layers stand on, nor where what it loses is kept.
TEST_F(NodeFlush, ABackingFileIsNoneOfIts) {
  add_disk("own");
  BlockNode& overlay = over("overlay", {{&node("own"), Role::file}, {&node("storage"), Role::backing}});
  BlockNode& filter = over("filter", {{&overlay, Role::filtered}, {&node("storage"), Role::target}});
  Edge& guest = attach(filter);
  Edge& job = attach(node("storage"), nothing);
  fail_flush();
  EXPECT_EQ(told(job), "the cache is gone");
  EXPECT_TRUE(flushes(guest));
  Edge& target = *static_cast<Flushing&>(filter.driver()).children.at(1);
  EXPECT_EQ(told(target), lost);
  EXPECT_TRUE(flushes(target));
}

TEST_F(NodeFlush, WhoeverHasAskedForIt) {
  Edge& guest = attach(node("storage"));
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  EXPECT_EQ(told(guest), lost);
  EXPECT_TRUE(flushes(guest));
}

TEST_F(NodeFlush, AWriteThatIsToBeDurable) {
  Edge& guest = attach(node("storage"));
  Edge& other = attach(node("storage"));
  const auto data = bytes_of(512, 1);
  fail_flush();
  EXPECT_EQ(error_of(other.write(0, Buffers::of_const(data), WriteFlags::fua)).message(), "the cache is gone");
  EXPECT_EQ(told(guest), lost);
  EXPECT_EQ(told(other), lost);
}

TEST_F(NodeFlush, OneUnderWay) {
  Edge& guest = attach(node("storage"));
  Edge& other = attach(node("storage"));
  storage->hold();
  fail_flush();
  Background first = start(guest.flush());
  Background second = start(other.flush());
  storage->release();
  const Result<> one = finish(first), two = finish(second);
  EXPECT_FALSE(one.ok());
  EXPECT_FALSE(two.ok());
  EXPECT_TRUE(flushes(guest) && flushes(other));
}

TEST_F(NodeFlush, APeerThatIsAwayHasLostNothing) {
  Edge& guest = attach(node("storage"));
  Edge& other = attach(node("storage"));
  for (const Errc code : {Errc::disconnected, Errc::timed_out, Errc::cancelled}) {
    fail_flush(code);
    EXPECT_FALSE(flushes(other));
    EXPECT_TRUE(flushes(guest));
  }
}

// The node that it uses by then has lost nothing itself.
TEST_F(NodeFlush, AFilterComesInBetween) {
  Edge& guest = attach(node("storage"));
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  BlockNode& filter = over("filter", {{&node("storage"), Role::filtered}});
  const auto insert = [&]() -> Task<> {
    const auto drained = co_await graph.drain(node("storage"));
    co_await unwrap(graph.replace(node("storage"), filter));
  };
  run(insert());
  EXPECT_EQ(&guest.node(), &filter);
  EXPECT_EQ(told(guest), lost);
  EXPECT_TRUE(flushes(guest));
}

TEST_F(NodeFlush, NoneAreDoneWhereNoneAreWanted) {
  NodeOptions options;
  options.cache_no_flush = true;
  TestDriver& fast = add_disk("fast", {}, options);
  Edge& guest = attach(node("fast"));
  EXPECT_TRUE(flushes(guest));
  run(node("fast").make_durable());
  EXPECT_EQ(fast.count(Call::flush), 0u);
}

}  // namespace
}  // namespace tidemark::test
