// Committing layers that nobody writes to: the disk stays as it is while guests write to it, whatever fails and whenever it
// is cancelled, and stands on the base in the end.
#include "tests/support/test_chains.hpp"

namespace tidemark::test {
namespace {

class CommitTest : public ChainsTest {
 protected:
  struct Chain {
    BlockNode *base, *a, *b, *c, *disk;
  };
  Chain chain() {
    const auto size = [&] { return MiB + disks->random.below(400) * 512; };
    Chain chain{};
    chain.base = &layer("base", size(), nullptr, disks->random.below(2) == 0 ? 4096 : 64 * KiB);
    chain.a = &layer("a", size(), chain.base, 8192);
    chain.b = &layer("b", size(), chain.a);
    chain.c = &layer("c", size(), chain.b);
    chain.disk = &layer("disk", size(), chain.c, 64 * KiB);
    for (BlockNode* node : {chain.base, chain.a, chain.b, chain.c, chain.disk}) scribble(*node);
    return chain;
  }
};

TEST_F(CommitTest, TheDiskStaysWhileAGuestWrites) {
  for (std::uint64_t seed = 1; seed <= 16; ++seed) {
    restart(seed);
    const Chain c = chain();
    BlockNode* const top = seed % 2 == 0 ? c.c : c.b;
    BlockNode* const base = seed % 3 == 0 ? c.a : c.base;
    BlockNode* const above = top == c.c ? c.disk : c.c;
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        co_await begin(commit("j", *c.disk, *top, *base));
        group.spawn(guest.work(300, 6));
        co_await end_of("j");
        EXPECT_EQ(above->backing(), base);
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos);
    EXPECT_EQ(guest.failed(), 0u);
    EXPECT_EQ(backing_name_in(*above), "base.qcow2");
    EXPECT_GE(base->size(), top->size());
    EXPECT_EQ(content(*c.disk) == guest.content, true) << "seed " << seed;
    EXPECT_EQ(disks->graph.nodes().size(), 15u);             // the filter is gone
  }
}

TEST_F(CommitTest, MarksTheBitmapsOfTheBase) {
  const Chain c = chain();
  Content before = content(*c.base);
  NodeBitmap& bitmap = **c.base->bitmaps().add("b", c.base->size(), 4096);
  NodeBitmap& other = **c.disk->bitmaps().add("b", c.disk->size(), 4096);
  run([&]() -> Task<> {
    co_await begin(commit("j", *c.disk, *c.c, *c.base));
    co_await end_of("j");
  });
  const Content after = content(*c.base);
  for (std::uint64_t at = 0; at < before.size(); at += 512)
    if (std::memcmp(before.data() + at, after.data() + at, 512) != 0) {
      EXPECT_TRUE(bitmap.bits().next_dirty(at) == at || bitmap.bits().next_dirty(at / 4096 * 4096) == at / 4096 * 4096) << at;
    }
  EXPECT_GT(bitmap.bits().dirty_bytes(), 0u);
  EXPECT_EQ(other.bits().dirty_bytes(), 0u);
}

TEST_F(CommitTest, CancelledAtAnyMoment) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    restart(seed);
    const Chain c = chain();
    disks->set_faults("a", {slow()});
    disks->set_faults("base", {slow()});
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(100, 4));
        co_await begin(commit("j", *c.disk, *c.c, *c.base));
        co_await disks->process.reactor().sleep(Duration(disks->random.below(8'000'000)));
        if (exists("j")) (void)jobs->cancel(job("j"), false);
        co_await end_of("j");
        co_await group.join();
        // And once more.
        if (c.disk->backing() == c.c) {
          co_await begin(commit("j", *c.disk, *c.c, *c.base));
          co_await end_of("j");
        }
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_EQ(c.disk->backing(), c.base);
    EXPECT_EQ(content(*c.disk) == guest.content, true) << "seed " << seed;
    EXPECT_EQ(disks->graph.nodes().size(), 15u);
  }
}

TEST_F(CommitTest, ErrorsByPolicy) {
  for (const OnError policy : {OnError::report, OnError::ignore, OnError::stop}) {
    for (const bool reading : {false, true}) {
      restart(7);
      const Chain c = chain();
      const Content wanted = content(*c.disk);
      const FaultRule fault = failing(reading ? FaultOp::read : FaultOp::write, 3, 2);
      disks->set_faults(reading ? "b" : "base", {fault});
      run([&]() -> Task<> {
        CommitOptions options = commit("j", *c.disk, *c.c, *c.base);
        options.on_error = policy;
        options.job.auto_dismiss = false;
        co_await begin(std::move(options));
        while (job("j").status() != JobStatus::concluded) {
          if (job("j").user_paused()) (void)jobs->resume(job("j"));
          co_await pass(1);
        }
        EXPECT_EQ(job("j").info().error.has_value(), policy == OnError::report);
        (void)jobs->dismiss(job("j"));
        disks->set_faults(reading ? "b" : "base", {});
      });
      EXPECT_NE(events.take().find(reading ? "error read" : "error write"), std::string::npos);
      EXPECT_EQ(c.disk->backing(), policy == OnError::report ? c.c : c.base);
      EXPECT_EQ(content(*c.disk) == wanted, true);
    }
  }
}

// Several images stand on the top: all of them stand on the base in the end, or none.
TEST_F(CommitTest, AllImagesAbove) {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    restart(seed + 1);
    const Chain c = chain();
    BlockNode& second = layer("second", 3 * MiB, c.c);
    scribble(second);
    const Content one = content(*c.disk), two = content(second);
    run([&]() -> Task<> {
      CommitOptions options = commit("j", *c.disk, *c.c, *c.a);
      options.job.auto_finalize = false;
      co_await begin(std::move(options));
      co_await reach("j", JobStatus::pending);
      if (seed != 0) disks->set_faults("second", {failing(FaultOp::write, seed - 1, 1)});
      (void)co_await jobs->finalize("j").result();
      co_await end_of("j");
      disks->set_faults("second", {});
    });
    const bool failed = events.take().find("Input/output error") != std::string::npos;
    EXPECT_TRUE(seed != 0 || !failed);
    for (BlockNode* node : {c.disk, &second}) {
      EXPECT_EQ(node->backing(), failed ? c.c : c.a);
      EXPECT_EQ(backing_name_in(*node), failed ? "c.qcow2" : "base.qcow2");
    }
    EXPECT_EQ(content(*c.disk) == one, true) << seed;
    EXPECT_EQ(content(second) == two, true) << seed;
  }
}

// Who comes to write to the base in the very moment in which the job lets go.
TEST_F(CommitTest, NobodyComesToWriteToTheBaseWhileItEnds) {
  for (std::uint64_t seed = 30; seed < 38; ++seed) {
    restart(seed);
    const Chain c = chain();
    disks->set_faults("disk", {slow()});
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    using P = Permissions;
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(200, 4));
        co_await begin(commit("j", *c.disk, *c.c, *c.base));
        if (seed % 2) {
          co_await pass(disks->random.below(8));
          if (exists("j")) (void)jobs->cancel(job("j"), true);
        }
        while (exists("j")) {
          EXPECT_FALSE(Edge::attach(*c.base, Role::root, {P::write, P::all}, "a writer").ok());
          co_await disks->process.reactor().yield();
        }
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_TRUE(content(*c.disk) == guest.content) << "seed " << seed;
  }
}

TEST_F(CommitTest, NobodyReadsWhatChanges) {
  const Chain c = chain();
  using P = Permissions;
  run([&]() -> Task<> {
    {
      const auto reader = Edge::attach(*c.a, Role::root, {P::consistent_read, P::all}, "a reader");
      const auto refused = co_await begin(commit("j", *c.disk, *c.c, *c.base)).result();
      EXPECT_FALSE(refused.ok());
      EXPECT_EQ(disks->graph.nodes().size(), 15u);
    }
    CommitOptions options = commit("j", *c.disk, *c.c, *c.base);
    options.job.speed = 4096;
    co_await begin(std::move(options));
    EXPECT_FALSE(Edge::attach(*c.b, Role::root, {P::consistent_read, P::all}, "a reader").ok());
    EXPECT_FALSE(Edge::attach(*c.base, Role::root, {P::write, P::all}, "a writer").ok());
    EXPECT_TRUE(Edge::attach(*c.disk, Role::root, {P::consistent_read | P::write, P::all}, "a guest").ok());
    for (BlockNode* node : {c.base, c.a, c.b, c.c, c.disk}) EXPECT_TRUE(job("j").job().uses(*node));
  });
}

}  // namespace
}  // namespace tidemark::test
