// The ends of mirrors: whom they hold up, and what they hold and let go of meanwhile.
#include "tests/support/test_mirrors.hpp"

namespace tidemark::test {
namespace {

using MirrorEndingTest = MirrorTest;

// Guests are held for a part of the time, however long the target takes.
TEST_F(MirrorEndingTest, TheEndOfAMirrorToASlowTarget) {
  make(185, 0);
  Edge& writer = disks->attach(*source);
  Reactor& reactor = disks->process.reactor();
  run([&]() -> Task<> {
    MirrorOptions options = mirror();
    options.buf_size = 64 * KiB;
    co_await start(options);
    co_await reach("j", JobStatus::ready);
    FaultRule slow;
    slow.op = FaultOp::write;
    slow.latency_ns = 300 * ms;
    disks->set_faults("t", {slow});
    const Content data(512, std::byte{1});
    for (std::uint64_t at = 0; at < 40; ++at) co_await writer.write(at * 64 * KiB, Buffers::of_const(data));
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    const Instant began = reactor.now();
    Duration held{};
    for (std::uint64_t i = 0; reactor.now() - began < std::chrono::seconds(10); ++i) {
      const Instant asked = reactor.now();
      co_await writer.write(i % 40 * 64 * KiB, Buffers::of_const(data));
      if (reactor.now() - asked > std::chrono::milliseconds(100)) held += reactor.now() - asked;
      co_await pass(5);
    }
    EXPECT_LT(held, std::chrono::seconds(4));
    EXPECT_TRUE(exists("j"));
    disks->set_faults("t", {});
    co_await end_of("j");
    EXPECT_EQ(&writer.node(), target);
  });
}

// Who forbids writing to the source comes to it in the very moment in which the mirror lets go.
TEST_F(MirrorEndingTest, NobodyMindsTheGuestWhileItEnds) {
  for (std::uint64_t seed = 190; seed < 196; ++seed) {
    make(seed);
    using P = Permissions;
    run_with_guest([&]() -> Task<> {
      co_await start(mirror());
      co_await pass(disks->random.below(10));
      (void)jobs->cancel(job("j"), true);
      while (exists("j")) {
        EXPECT_FALSE(Edge::attach(*source, Role::root, {P::none, P::all & ~P::write}, "who minds").ok());
        co_await disks->process.reactor().yield();
      }
    });
    EXPECT_TRUE(of(*source) == guest->content) << "seed " << seed;
  }
}

// What a filter showed until the pivot is closed, when nobody else has it.
TEST_F(MirrorEndingTest, TheNodeThatIsReplacedBelowAFilterIsLetGoOf) {
  restart(197);
  NodeOptions plain;
  plain.name = "replaced";
  BlockNode& memory = *disks->run(disks->graph.add(plain, *open_memory({MiB})));
  source = &disks->add("above", *open_fault({&memory, {}, 1}));
  target = &disks->disk("t", MiB);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    MirrorOptions options = mirror();
    options.replaces = "replaced";
    co_await start(options);
    co_await reach("j", JobStatus::ready);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
  });
  EXPECT_EQ(&writer.node(), source);
  EXPECT_EQ(source->filtered(), target);
  EXPECT_EQ(disks->graph.find("replaced"), nullptr);
}

}  // namespace
}  // namespace tidemark::test
