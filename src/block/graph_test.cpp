// The graph's shape: names, removal, filters put in and taken out, drain.
#include "block/status.hpp"
#include "block/test_driver.hpp"
#include "block/write_behind.hpp"

namespace tidemark::test {
namespace {

class GraphTest : public BlockTest {
 protected:
  Error add_fails(std::string name) {
    TestDriverOptions options;
    NodeOptions node_options;
    node_options.name = std::move(name);
    const Result<BlockNode*> added =
        reactor.run(graph.add(node_options, std::make_unique<TestDriver>(reactor, options)));
    EXPECT_FALSE(added.ok());
    return added ? Error(Errc::io, "it was added") : added.error();
  }
  std::vector<std::byte> memory = std::vector<std::byte>(512);
  Background start_read(Edge& edge) { return start(edge.read(0, Buffers(memory))); }
  // A drain that ends in `drained`; the guard stays until reset.
  std::optional<Graph::DrainGuard> drained;
  Task<> drain_into(BlockNode& node, std::optional<Graph::DrainGuard>& guard) {
    guard.emplace(co_await graph.drain(node));
  }
};

TEST_F(GraphTest, WhatACopierWroteIsWrittenBackWhereItIsStoredOnly) {
  TestDriver& file = add_disk("file");
  TestDriver& below = add_disk("below");
  TestDriver& target = add_disk("target");
  add_parent("fmt", {{&node("file"), Role::file}, {&node("below"), Role::backing}});
  add_parent("cbw", {{&node("fmt"), Role::filtered}, {&node("target"), Role::target}}, true);
  Edge& edge = attach(node("cbw"));
  WriteBehind behind(edge, PageCache::keep);
  for (int i = 0; i < 64; ++i) run(behind.wrote(256 * KiB));
  EXPECT_EQ(file.count(Call::write_back), 2u);
  file.fail_next(Error(Errc::io, "no"));
  run(behind.wrote(8 * MiB));                          // whoever flushes is told
  EXPECT_EQ(file.count(Call::write_back), 3u);
  EXPECT_EQ(below.count(Call::write_back) + target.count(Call::write_back), 0u);
}

TEST_F(GraphTest, FindsNodesByName) {
  add_disk("a");
  EXPECT_EQ(graph.find("a"), &node("a"));
  EXPECT_EQ(graph.find("b"), nullptr);
  EXPECT_EQ(graph.lookup("b").error().message(), "Cannot find device='b' nor node-name='b'");
}

TEST_F(GraphTest, RefusesBadNames) {
  add_disk("a");
  EXPECT_EQ(add_fails("a").message(), "Duplicate nodes with node-name='a'");
  EXPECT_EQ(add_fails("1a").message(), "Invalid node-name: '1a'");
  EXPECT_EQ(add_fails("a b").message(), "Invalid node-name: 'a b'");
  EXPECT_EQ(add_fails("#block5").code(), Errc::invalid_argument);
  EXPECT_EQ(add_fails(std::string(32, 'x')).message(), "Node name too long");
  EXPECT_EQ(graph.nodes().size(), 1u);
}

TEST_F(GraphTest, RefusesADiskWhoseLastSectorNoOffsetReaches) {
  struct Huge final : TestDriver {
    using TestDriver::TestDriver;
    std::uint64_t size() const noexcept override { return max_disk_size - 5; }
  };
  NodeOptions named;
  named.name = "huge";
  const Result<BlockNode*> added = reactor.run(graph.add(named, std::make_unique<Huge>(reactor, TestDriverOptions())));
  ASSERT_FALSE(added.ok());
  EXPECT_EQ(added.error().message(), "node 'huge': 9223372036854775802 bytes are more than a disk can have");
}

// What is in flight at a target ends; what is in flight at the disk that its backing file may be does not.
TEST_F(GraphTest, CancelsWhatIsInFlightBelowButForBackingFiles) {
  TestDriver& file = add_disk("file");
  TestDriver& backing = add_disk("backing");
  TestParent& image = add_parent("image", {{&node("file"), Role::file}, {&node("backing"), Role::backing}});
  run(graph.cancel_in_flight(node("image")));
  EXPECT_EQ(image.cancelled, 1);
  EXPECT_EQ(file.cancelled, 1);
  EXPECT_EQ(backing.cancelled, 0);
  run(graph.cancel_all_in_flight());
  EXPECT_EQ(backing.cancelled, 1);
}

// What a command has found stays until it is over; then it goes only if its last user has let go of it meanwhile.
TEST_F(GraphTest, WhatIsPinnedIsReleasedLater) {
  TestDriverOptions options;
  const auto make = [&](const char* name) {
    NodeOptions unowned;
    unowned.name = name;
    unowned.monitor_owned = false;
    auto added = reactor.run(graph.add(unowned, std::make_unique<TestDriver>(reactor, options)));
    EXPECT_TRUE(added.ok());
    return *added;
  };
  BlockNode* let_go = make("let-go");
  make("held");                            // by somebody who has no edge
  EXPECT_EQ(graph.pin("let-go"), let_go);
  EXPECT_TRUE(graph.lookup("held").ok() && graph.has_pins());
  run(graph.release(*let_go));
  EXPECT_EQ(graph.find("let-go"), let_go);
  run(graph.unpin());
  EXPECT_EQ(graph.find("let-go"), nullptr);
  EXPECT_NE(graph.find("held"), nullptr);
  EXPECT_FALSE(graph.has_pins());
  run(graph.unpin());
  run(graph.release(*graph.find("held")));
  EXPECT_EQ(graph.find("held"), nullptr);
}

TEST_F(GraphTest, GeneratesNames) {
  TestDriverOptions options;
  BlockNode& first = add("", std::make_unique<TestDriver>(reactor, options));
  BlockNode& second = add("", std::make_unique<TestDriver>(reactor, options));
  EXPECT_EQ(first.name().substr(0, 6), "#block");
  EXPECT_NE(first.name(), second.name());
}

TEST_F(GraphTest, ANodeInUseStays) {
  add_disk("disk");
  attach(node("disk"));
  EXPECT_EQ(error_of(graph.remove(node("disk"))).message(), "Node disk is in use");
  roots.clear();
  run(graph.remove(node("disk")));
  EXPECT_EQ(graph.find("disk"), nullptr);
}

TEST_F(GraphTest, ChildrenGoWithTheirLastParent) {
  add_disk("file");
  add_disk("kept", {}, {.name = {}, .monitor_owned = true});
  add_parent("fmt", {{&node("file"), Role::file}, {&node("kept"), Role::backing}});
  run(graph.remove(node("fmt")));
  EXPECT_EQ(graph.find("file"), nullptr);
  EXPECT_NE(graph.find("kept"), nullptr);
  run(graph.release(node("kept")));  // monitor-owned: stays
  EXPECT_NE(graph.find("kept"), nullptr);
}

class CountsFlushes final : public TestDriver {
 public:
  CountsFlushes(Reactor& reactor, int& flushes) : TestDriver(reactor, {}), flushes_(flushes) {}
  Task<> flush() override {
    ++flushes_;
    return TestDriver::flush();
  }

 private:
  int& flushes_;
};

TEST_F(GraphTest, WhatWasWrittenIsFlushedWhenItCloses) {
  const auto flushes_of = [&](auto use) {
    int flushes = 0;
    NodeOptions named;
    named.name = "disk";
    BlockNode* disk = *reactor.run(graph.add(named, std::make_unique<CountsFlushes>(reactor, flushes)));
    auto edge = *Edge::attach(*disk, Role::root, {Permissions::write, Permissions::all}, "test");
    use(*edge);
    edge.reset();
    EXPECT_TRUE(reactor.run(graph.remove(*disk)).ok());
    return flushes;
  };
  const auto write = [&](Edge& edge) { EXPECT_TRUE(reactor.run(edge.write(0, Buffers::of_const(memory))).ok()); };
  const auto flush = [&](Edge& edge) { EXPECT_TRUE(reactor.run(edge.flush()).ok()); };
  EXPECT_EQ(flushes_of([](Edge&) {}), 0);
  EXPECT_EQ(flushes_of(write), 1);
  EXPECT_EQ(flushes_of([&](Edge& edge) { write(edge), flush(edge); }), 1);
  EXPECT_EQ(flushes_of([&](Edge& edge) { flush(edge), write(edge); }), 2);
}

TEST_F(GraphTest, TheNameIsFreeAsSoonAsTheNodeCloses) {
  add_disk("disk").hold();
  run(graph.remove(node("disk")));
  add_disk("disk");
}

// Who holds it drained has found it, and may look at it until then.
TEST_F(GraphTest, ANodeThatIsHeldDrainedGoesWhenItIsLetGo) {
  add_disk("disk");
  BlockNode& disk = node("disk");
  run(drain_into(disk, drained));
  Background removal = start(graph.remove(disk));
  settle();
  EXPECT_FALSE(removal.done());
  EXPECT_EQ(graph.nodes().size(), 1u);
  drained.reset();
  EXPECT_TRUE(finish(removal).ok());
  EXPECT_EQ(graph.nodes().size(), 0u);
}

TEST_F(GraphTest, AFilterTakesOverAllUsers) {
  add_disk("disk");
  add_disk("file");
  add_parent("overlay", {{&node("file"), Role::file}, {&node("disk"), Role::backing}});
  Edge& guest = attach(node("disk"), {P::consistent_read, P::all});
  add_parent("filter", {{&node("disk"), Role::filtered}}, true);
  ASSERT_TRUE(graph.replace(node("disk"), node("filter")).ok());
  EXPECT_EQ(&guest.node(), &node("filter"));
  EXPECT_EQ(node("overlay").backing(), &node("filter"));
  ASSERT_EQ(node("disk").parents().size(), 1u);
  EXPECT_EQ(node("disk").parents()[0]->parent(), &node("filter"));
  EXPECT_EQ(&skip_filters(node("filter")), &node("disk"));

  ASSERT_TRUE(graph.replace(node("filter"), node("filter").child(Role::filtered)->node()).ok());
  EXPECT_EQ(&guest.node(), &node("disk"));
  EXPECT_EQ(node("overlay").backing(), &node("disk"));
  EXPECT_TRUE(node("filter").parents().empty());
  run(graph.remove(node("filter")));
}

TEST_F(GraphTest, AFilterDoesNotLoop) {
  // The filter's target is an overlay of the disk: that user keeps its edge.
  add_disk("disk");
  add_disk("file");
  add_parent("target", {{&node("file"), Role::file}, {&node("disk"), Role::backing}});
  add_parent("cbw", {{&node("disk"), Role::filtered}, {&node("target"), Role::target}}, true);
  Edge& guest = attach(node("disk"), {P::consistent_read, P::all});
  ASSERT_TRUE(graph.replace(node("disk"), node("cbw")).ok());
  EXPECT_EQ(&guest.node(), &node("cbw"));
  EXPECT_EQ(node("target").backing(), &node("disk"));
  ASSERT_TRUE(graph.replace(node("cbw"), node("cbw").child(Role::filtered)->node()).ok());
}

TEST_F(GraphTest, AnOverlayGetsAnotherBackingNodeOrNone) {
  add_disk("old");
  add_disk("new");
  TestParent& overlay = add_parent("overlay", {{&node("old"), Role::backing}});
  EXPECT_EQ(graph.set_backing(node("old"), &node("new")).error().code(), Errc::unsupported);
  overlay.overlay = true;
  attach(node("overlay"), {P::consistent_read, P::all});
  ASSERT_TRUE(graph.set_backing(node("overlay"), &node("new")).ok());
  EXPECT_EQ(node("overlay").backing(), &node("new"));
  EXPECT_EQ(node("new").parents().at(0)->parent(), &node("overlay"));
  EXPECT_TRUE(node("old").parents().empty());

  // A user who lets nobody read it: all is as it was.
  Edge& alone = attach(node("old"), {P::none, P::none});
  EXPECT_EQ(graph.set_backing(node("overlay"), &node("old")).error().code(), Errc::busy);
  EXPECT_EQ(node("overlay").backing(), &node("new"));
  EXPECT_EQ(node("old").parents(), std::vector<Edge*>{&alone});

  add_parent("top", {{&node("overlay"), Role::backing}});
  const Error loop = graph.set_backing(node("overlay"), &node("top")).error();
  EXPECT_EQ(loop.message(), "Making 'top' a backing child of 'overlay' would create a cycle");

  ASSERT_TRUE(graph.set_backing(node("overlay"), nullptr).ok());
  EXPECT_EQ(node("overlay").backing(), nullptr);
  EXPECT_TRUE(node("new").parents().empty());
}

TEST_F(GraphTest, DrainWaitsForRequestsInFlight) {
  TestDriver& driver = add_disk("disk");
  Edge& edge = attach(node("disk"));
  driver.hold();
  Background read = start_read(edge);
  Background drain = start(drain_into(node("disk"), drained));
  settle();
  EXPECT_FALSE(drain.done());
  driver.release();
  EXPECT_TRUE(finish(drain).ok());
  EXPECT_TRUE(read.done());
  EXPECT_TRUE(finish(read).ok());
  EXPECT_EQ(node("disk").in_flight(), 0u);
}

TEST_F(GraphTest, RootRequestsWaitWhileDrained) {
  TestDriver& driver = add_disk("disk");
  Edge& edge = attach(node("disk"));
  run(drain_into(node("disk"), drained));
  Background read = start_read(edge);
  Background flush = start(edge.flush());
  settle();
  EXPECT_TRUE(driver.log.empty());
  EXPECT_EQ(node("disk").in_flight(), 0u);
  drained.reset();
  EXPECT_TRUE(finish(read).ok());
  EXPECT_TRUE(finish(flush).ok());
  EXPECT_EQ(driver.log.size(), 2u);
}

TEST_F(GraphTest, DrainIsCounted) {
  TestDriver& driver = add_disk("disk");
  Edge& edge = attach(node("disk"));
  std::optional<Graph::DrainGuard> second;
  run(drain_into(node("disk"), drained));
  run(drain_into(node("disk"), second));
  Background read = start_read(edge);
  drained.reset();
  settle();
  EXPECT_TRUE(driver.log.empty());
  second.reset();
  EXPECT_TRUE(finish(read).ok());
}

TEST_F(GraphTest, DrainReachesUpAndNotDownOrAside) {
  add_disk("file");
  add_disk("other");
  add_parent("fmt", {{&node("file"), Role::file}});
  Edge& above = attach(node("fmt"), {P::consistent_read, P::all});
  Edge& beside = attach(node("other"));
  run(drain_into(node("file"), drained));
  EXPECT_TRUE(node("fmt").quiesced());
  EXPECT_FALSE(node("other").quiesced());
  Background waits = start_read(above);
  Background passes = start_read(beside);
  EXPECT_TRUE(passes.done());
  EXPECT_FALSE(waits.done());
  drained.reset();
  EXPECT_TRUE(finish(waits).ok());
  EXPECT_TRUE(finish(passes).ok());

  run(drain_into(node("fmt"), drained));  // a drained parent leaves its child's users alone
  EXPECT_FALSE(node("file").quiesced());
  drained.reset();
}

TEST_F(GraphTest, RequestsOfDriversPassADrain) {
  TestDriver& file = add_disk("file");
  add_parent("fmt", {{&node("file"), Role::file}});
  Edge& edge = attach(node("fmt"), {P::consistent_read, P::all});
  file.hold();
  Background read = start_read(edge);  // in flight in both nodes
  Background drain = start(drain_into(node("file"), drained));
  settle();
  EXPECT_FALSE(drain.done());
  // What the format does to finish its request goes through.
  auto& fmt = static_cast<TestParent&>(node("fmt").driver());
  Background inner = start_read(*fmt.children[0]);
  EXPECT_EQ(file.waiting, 2u);
  file.release();
  EXPECT_TRUE(finish(read).ok());
  EXPECT_TRUE(finish(inner).ok());
  EXPECT_TRUE(finish(drain).ok());
}

TEST_F(GraphTest, AFilterInsertedUnderDrainGetsTheRequestsThatWaited) {
  TestDriver& disk = add_disk("disk");
  Edge& edge = attach(node("disk"), {P::consistent_read, P::all});
  run(drain_into(node("disk"), drained));
  Background read = start_read(edge);
  TestParent& filter = add_parent("filter", {{&node("disk"), Role::filtered}}, true);
  ASSERT_TRUE(graph.replace(node("disk"), node("filter")).ok());
  settle();
  EXPECT_FALSE(read.done());
  drained.reset();
  EXPECT_TRUE(finish(read).ok());
  EXPECT_EQ(disk.count(Call::read), 1u);
  EXPECT_EQ(node("filter").stats().read.operations, 1u);
  EXPECT_TRUE(filter.is_filter());
  ASSERT_TRUE(graph.replace(node("filter"), node("filter").child(Role::filtered)->node()).ok());
}

// A filter that is taken out and closed while requests wait that came through it.
TEST_F(GraphTest, AFilterRemovedUnderDrainLeavesItsWaitersAlive) {
  TestDriver& disk = add_disk("disk");
  add_parent("filter", {{&node("disk"), Role::filtered}}, true);
  Edge& edge = attach(node("filter"), {P::consistent_read, P::all});
  run(drain_into(node("disk"), drained));
  Background read = start_read(edge);
  ASSERT_TRUE(graph.replace(node("filter"), node("filter").child(Role::filtered)->node()).ok());
  run(graph.remove(node("filter")));
  EXPECT_FALSE(read.done());
  drained.reset();
  EXPECT_TRUE(finish(read).ok());
  EXPECT_EQ(disk.count(Call::read), 1u);
}

TEST_F(GraphTest, EnterHoldsADrainUp) {
  add_disk("disk");
  Edge& edge = attach(node("disk"));
  std::optional<InFlight> operation;
  const auto enter = [&]() -> Task<> { operation.emplace(co_await edge.enter()); };
  run(enter());
  Background drain = start(drain_into(node("disk"), drained));
  settle();
  EXPECT_FALSE(drain.done());
  operation.reset();
  EXPECT_TRUE(finish(drain).ok());
  Background entering = start(enter());
  settle();
  EXPECT_FALSE(entering.done());
  drained.reset();
  EXPECT_TRUE(finish(entering).ok());
  operation.reset();
}

TEST_F(GraphTest, RetargetMovesAUser) {
  add_disk("a");
  TestDriver& b = add_disk("b");
  Edge& edge = attach(node("a"));
  ASSERT_TRUE(edge.retarget(node("b")).ok());
  Background read = start_read(edge);
  EXPECT_TRUE(finish(read).ok());
  EXPECT_EQ(b.count(Call::read), 1u);
  EXPECT_TRUE(node("a").parents().empty());
  attach(node("a"), {P::write, P::none}, "owner");
  EXPECT_EQ(edge.retarget(node("a")).error().code(), Errc::busy);
  EXPECT_EQ(&edge.node(), &node("b"));
}

}  // namespace
}  // namespace tidemark::test
