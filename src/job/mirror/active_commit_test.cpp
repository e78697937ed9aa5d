// Committing the layer that guests write to: the disk stays as it is while they do, whatever fails and whenever the job is
// cancelled; at the pivot the base is what the disk was, and theirs.
#include "tests/support/test_chains.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t ms = 1'000'000;

class ActiveCommitTest : public ChainsTest {
 protected:
  struct Chain {
    BlockNode *base, *a, *b, *disk;
  };
  // Sizes vary, but what a guest sees does not become longer at the pivot.
  Chain chain(bool base_grows = true) {
    const std::uint64_t longest = MiB + 400 * 512;
    const auto size = [&] { return MiB + disks->random.below(400) * 512; };
    Chain chain{};
    chain.base = &layer("base", base_grows ? size() : longest, nullptr, disks->random.below(2) == 0 ? 4096 : 64 * KiB);
    chain.a = &layer("a", size(), chain.base, 8192);
    chain.b = &layer("b", size(), chain.a);
    chain.disk = &layer("disk", longest, chain.b, disks->random.below(2) == 0 ? 4096 : 64 * KiB);
    for (BlockNode* node : {chain.base, chain.a, chain.b, chain.disk}) scribble(*node);
    return chain;
  }
  void slow_layers() {
    for (const char* name : {"base", "a", "disk"}) disks->set_faults(name, {slow()});
  }
  void expect_no_filter() { EXPECT_EQ(disks->graph.nodes().size(), 12u); }
  void run_with(Guest& guest, std::function<Task<>()> body) {
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work_on(1));
        co_await body();
        guest.stop();
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_EQ(guest.failed(), 0u);
  }
};

TEST_F(ActiveCommitTest, ThePivotGivesTheGuestTheBase) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    restart(seed);
    const Chain c = chain();
    if (seed % 2) slow_layers();
    BlockNode* const base = seed % 3 == 0 ? c.b : seed % 3 == 1 ? c.a : c.base;
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      MirrorOptions options = active_commit("j", *c.disk, *base);
      options.job.auto_finalize = seed % 4 != 0;
      co_await begin(std::move(options));
      co_await reach("j", JobStatus::ready);
      EXPECT_EQ(job("j").job().type(), JobType::commit);
      co_await pass(10);
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      if (seed % 4 == 0) {
        co_await reach("j", JobStatus::pending);
        co_await pass(5);
        co_await jobs->finalize("j");
      }
      co_await end_of("j");
      EXPECT_EQ(&disks->roots[0]->node(), base);
      co_await pass(10);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos);
    EXPECT_TRUE(content(*base) == guest.content) << "seed " << seed;
    EXPECT_EQ(c.disk->backing(), c.b);                     // the files taken out are for who made them to remove
    EXPECT_TRUE(c.disk->parents().empty());
    expect_no_filter();
  }
}

TEST_F(ActiveCommitTest, WithoutThePivotTheChainIsAsItWas) {
  for (std::uint64_t seed = 20; seed < 28; ++seed) {
    restart(seed);
    const Chain c = chain();
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      co_await begin(active_commit("j", *c.disk, *c.base));
      co_await reach("j", JobStatus::ready);
      co_await pass(5);
      EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
      co_await end_of("j");
      EXPECT_EQ(&disks->roots[0]->node(), c.disk);
      co_await pass(5);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos);
    EXPECT_TRUE(content(*c.disk) == guest.content) << "seed " << seed;
    expect_no_filter();
  }
}

TEST_F(ActiveCommitTest, CancelledAtAnyMoment) {
  for (std::uint64_t seed = 30; seed < 46; ++seed) {
    restart(seed);
    const Chain c = chain();
    slow_layers();
    Prng random(seed);
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      const std::uint64_t after = random.below(40);
      co_await begin(active_commit("j", *c.disk, *c.base));
      co_await pass(after);
      if (exists("j") && random.chance(1, 2)) (void)jobs->complete(job("j"));
      co_await pass(random.below(3));
      if (exists("j")) (void)jobs->cancel(job("j"), true);
      co_await end_of("j");
      if (&disks->roots[0]->node() == c.base) co_return;
      // And once more.
      co_await begin(active_commit("j", *c.disk, *c.base));
      co_await reach("j", JobStatus::ready);
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      co_await end_of("j");
    });
    EXPECT_EQ(&disks->roots[0]->node(), c.base);
    EXPECT_TRUE(content(*c.base) == guest.content) << "seed " << seed;
    expect_no_filter();
  }
}

TEST_F(ActiveCommitTest, ErrorsByPolicy) {
  for (const OnError policy : {OnError::report, OnError::ignore, OnError::stop}) {
    for (const bool reading : {false, true}) {
      restart(7);
      const Chain c = chain(false);
      const Content wanted = content(*c.disk);
      disks->attach(*c.disk);
      disks->set_faults(reading ? "b" : "base", {failing(reading ? FaultOp::read : FaultOp::write, 3, 2)});
      run([&]() -> Task<> {
        MirrorOptions options = active_commit("j", *c.disk, *c.base);
        options.on_source_error = options.on_target_error = policy;
        options.job.auto_dismiss = false;
        co_await begin(std::move(options));
        while (job("j").status() != JobStatus::concluded) {
          if (job("j").user_paused()) (void)jobs->resume(job("j"));
          if (job("j").status() == JobStatus::ready) (void)jobs->complete(job("j"));
          co_await pass(1);
        }
        EXPECT_EQ(job("j").info().error.has_value(), policy == OnError::report);
        (void)jobs->dismiss(job("j"));
        disks->set_faults(reading ? "b" : "base", {});
      });
      EXPECT_NE(events.take().find(reading ? "error read" : "error write"), std::string::npos);
      BlockNode* const now = policy == OnError::report ? c.disk : c.base;
      EXPECT_EQ(&disks->roots[0]->node(), now);
      EXPECT_TRUE(content(*now) == wanted);
      expect_no_filter();
    }
  }
}

// It can be cancelled once the base has answered: requests in it are the guest's own, too, and nobody gives those up.
TEST_F(ActiveCommitTest, AGuestDoesNotWaitForABaseThatHangs) {
  restart(9);
  const Chain c = chain();
  Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
  run([&]() -> Task<> {
    co_await begin(active_commit("j", *c.disk, *c.base));
    co_await reach("j", JobStatus::ready);
    FaultRule hangs;
    hangs.latency_ns = 20'000 * ms;
    hangs.op = FaultOp::write;
    disks->set_faults("base", {hangs});
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    const Instant begin = disks->process.reactor().now();
    co_await guest.work(300, 1);
    // It tries to end meanwhile, holding the disk still for half a second at most.
    EXPECT_LT(disks->process.reactor().now() - begin, std::chrono::seconds(3));
    EXPECT_EQ(job("j").status(), JobStatus::ready);
    (void)jobs->cancel(job("j"), true);
    disks->set_faults("base", {});
    co_await end_of("j");
  });
  EXPECT_EQ(guest.failed(), 0u);
  EXPECT_TRUE(content(*c.disk) == guest.content);
  EXPECT_EQ(&disks->roots[0]->node(), c.disk);
}

TEST_F(ActiveCommitTest, ABaseThatCannotGrow) {
  restart(11);
  BlockNode& base = layer("base", MiB);
  BlockNode& disk = layer("disk", 3 * MiB, &base);
  scribble(disk);
  const Content wanted = content(disk);
  disks->attach(disk);
  disks->set_faults("base", {failing(FaultOp::write, 0, 100)});
  run([&]() -> Task<> {
    co_await begin(active_commit("j", disk, base));
    co_await end_of("j");
    disks->set_faults("base", {});
  });
  EXPECT_NE(events.take().find("j completed 0/3145728 Input/output error"), std::string::npos) << events.take();
  EXPECT_TRUE(content(disk) == wanted);
  EXPECT_EQ(&disks->roots[0]->node(), &disk);
}

TEST_F(ActiveCommitTest, NobodyElseReadsOrWritesWhatChanges) {
  const Chain c = chain();
  using P = Permissions;
  const auto may = [](BlockNode& node, P::Set uses) { return Edge::attach(node, Role::root, {uses, P::all}, "another").ok(); };
  run([&]() -> Task<> {
    disks->attach(*c.disk);
    {
      const auto reader = Edge::attach(*c.a, Role::root, {P::consistent_read, P::all}, "a reader");
      const auto refused = co_await begin(active_commit("j", *c.disk, *c.base)).result();
      EXPECT_FALSE(refused.ok());
      expect_no_filter();
      EXPECT_EQ(&disks->roots[0]->node(), c.disk);
    }
    {
      const auto writer = Edge::attach(*c.base, Role::root, {P::none, P::all & ~P::write}, "who minds");
      const auto refused = co_await begin(active_commit("j", *c.disk, *c.base)).result();
      EXPECT_FALSE(refused.ok());
      expect_no_filter();
      EXPECT_EQ(&disks->roots[0]->node(), c.disk);
    }
    co_await begin(active_commit("j", *c.disk, *c.base));
    for (BlockNode* node : {c.base, c.a, c.b, c.disk}) EXPECT_TRUE(job("j").job().uses(*node));
    for (BlockNode* node : {c.a, c.b, c.disk}) EXPECT_FALSE(may(*node, P::consistent_read));
    EXPECT_FALSE(may(*c.base, P::write));
    EXPECT_TRUE(may(disks->roots[0]->node(), P::consistent_read | P::write));
    co_await reach("j", JobStatus::ready);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
    EXPECT_TRUE(may(*c.base, P::consistent_read | P::write));
  });
}

// Who comes to write to the base in the very moment in which the job lets go.
TEST_F(ActiveCommitTest, NobodyComesToWriteToTheBaseWhileItEnds) {
  for (std::uint64_t seed = 70; seed < 78; ++seed) {
    restart(seed);
    const Chain c = chain();
    slow_layers();
    using P = Permissions;
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      co_await begin(active_commit("j", *c.disk, *c.base));
      co_await pass(disks->random.below(30));
      if (exists("j")) (void)jobs->cancel(job("j"), true);
      while (exists("j")) {
        const auto writer = Edge::attach(*c.base, Role::root, {P::write, P::all}, "a writer");
        EXPECT_FALSE(writer.ok());
        co_await disks->process.reactor().yield();
      }
    });
    EXPECT_TRUE(content(*c.disk) == guest.content);
  }
}

TEST_F(ActiveCommitTest, ABaseThatWasOnlyRead) {
  for (const bool pivot : {false, true}) {
    restart(13);
    BlockNode& base = layer("base", MiB);
    scribble(base);
    BlockNode& disk = layer("disk", MiB, &base);
    disks->run(disks->graph.set_read_only(base, true));
    disks->attach(disk);
    run([&]() -> Task<> {
      co_await begin(active_commit("j", disk, base));
      EXPECT_EQ(made_writable, std::vector<std::string>{"base"});
      co_await reach("j", JobStatus::ready);
      if (pivot) (void)jobs->complete(job("j"));
      else (void)jobs->cancel_block_job(job("j"), false);
      co_await end_of("j");
      EXPECT_EQ(made_writable.size(), pivot ? 1u : 2u);
      EXPECT_EQ(base.read_only(), !pivot);
    });
    made_writable.clear();
  }
}

class KeepActiveTest : public ActiveCommitTest {
 protected:
  MirrorOptions keep_active(BlockNode& top, BlockNode& base) {
    MirrorOptions options = active_commit("j", top, base);
    options.commit->keep_active = true;
    options.commit->backing_file = "base.qcow2";
    return options;
  }
  Task<> end_it() {
    co_await reach("j", JobStatus::ready);
    co_await pass(10);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
  }
  // What the image itself holds.
  Task<std::uint64_t> held(BlockNode& image) {
    std::uint64_t bytes = 0;
    for (Range left{0, image.size()}; !left.empty();) {
      const BlockStatus status = co_await block_status_above(image, image.backing(), left);
      if (status.allocated) bytes += status.range.length;
      left = {status.range.end(), left.end() - status.range.end()};
    }
    co_return bytes;
  }
};

TEST_F(KeepActiveTest, TheTopGivesUpWhatTheBaseHolds) {
  for (std::uint64_t seed = 80; seed < 86; ++seed) {
    restart(seed);
    const Chain c = chain();
    BlockNode* const base = seed % 2 ? c.base : c.b;
    const Content wanted = content(*c.disk);
    disks->attach(*c.disk);
    run([&]() -> Task<> {
      const std::uint64_t before = co_await held(*c.disk);
      EXPECT_GT(before, 0u);
      co_await begin(keep_active(*c.disk, *base));
      co_await end_it();
      const std::uint64_t after = co_await held(*c.disk);
      EXPECT_EQ(after, 0u) << "seed " << seed;
    });
    EXPECT_EQ(&disks->roots[0]->node(), c.disk);
    EXPECT_EQ(c.disk->backing(), base);
    EXPECT_EQ(backing_name_in(*c.disk), base == c.base ? "base.qcow2" : "b.qcow2");
    EXPECT_TRUE(content(*c.disk) == wanted) << "seed " << seed;
    expect_no_filter();
  }
}

TEST_F(KeepActiveTest, AGuestWritesMeanwhile) {
  for (std::uint64_t seed = 90; seed < 102; ++seed) {
    restart(seed);
    const Chain c = chain();
    if (seed % 2) slow_layers();
    BlockNode* const base = seed % 3 == 0 ? c.b : c.base;
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      MirrorOptions options = keep_active(*c.disk, *base);
      options.job.auto_finalize = seed % 4 != 0;
      co_await begin(std::move(options));
      if (seed % 4 == 0) {
        co_await reach("j", JobStatus::ready);
        EXPECT_TRUE(jobs->complete(job("j")).ok());
        co_await reach("j", JobStatus::pending);
        co_await jobs->finalize("j");
      } else {
        co_await end_it();
      }
      EXPECT_EQ(&disks->roots[0]->node(), c.disk);
      co_await pass(10);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos);
    EXPECT_EQ(c.disk->backing(), base);
    EXPECT_TRUE(content(*c.disk) == guest.content) << "seed " << seed;
    expect_no_filter();
  }
}

// Whatever fails at its end the disk is the same; and it stands on what its header names.
TEST_F(KeepActiveTest, ErrorsAtItsEnd) {
  bool failed_once = false, succeeded_once = false;
  for (std::uint64_t skip = 0; skip < 12; ++skip) {
    restart(skip + 110);
    const Chain c = chain();
    const Content wanted = content(*c.disk);
    disks->attach(*c.disk);
    run([&]() -> Task<> {
      co_await begin(keep_active(*c.disk, *c.base));
      co_await reach("j", JobStatus::ready);
      disks->set_faults("disk", {failing(FaultOp::write, skip, 1)});
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      co_await end_of("j");
      disks->set_faults("disk", {});
    });
    const bool failed = events.take().find("Input/output error") != std::string::npos;
    (failed ? failed_once : succeeded_once) = true;
    EXPECT_EQ(c.disk->backing() == c.base, backing_name_in(*c.disk) == "base.qcow2");
    EXPECT_TRUE(failed || c.disk->backing() == c.base);
    EXPECT_TRUE(content(*c.disk) == wanted) << skip;
    expect_no_filter();
  }
  EXPECT_TRUE(failed_once && succeeded_once);
}

TEST_F(KeepActiveTest, OrGivesUpAllBeforeGuestsGoOver) {
  for (std::uint64_t seed = 130; seed < 148; ++seed) {
    restart(seed);
    const Chain c = chain();
    if (seed % 2) slow_layers();
    BlockNode* const base = seed % 3 == 0 ? c.base : seed % 3 == 1 ? c.a : c.b;
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run_with(guest, [&]() -> Task<> {
      MirrorOptions options = active_commit("j", *c.disk, *base);
      options.commit->empty_active = true;
      options.commit->backing_file = base->name() + ".qcow2";
      co_await begin(std::move(options));
      co_await end_it();
      EXPECT_EQ(&disks->roots[0]->node(), base);
      const std::uint64_t left = co_await held(*c.disk);
      EXPECT_EQ(left, 0u) << "seed " << seed;
      co_await pass(10);
    });
    EXPECT_TRUE(content(*base) == guest.content) << "seed " << seed;
    EXPECT_TRUE(content(*c.disk) == guest.content) << "seed " << seed << ": who takes it for the disk is right";
    EXPECT_EQ(backing_name_in(*c.disk), base->name() + ".qcow2");
  }
}

// What is left for the moment at which guests wait is what they wrote last.
TEST_F(KeepActiveTest, MostOfItWhileGuestsGoOn) {
  for (std::uint64_t seed = 190; seed < 198; ++seed) {
    restart(seed);
    const Chain c = chain();
    const bool pivots = seed % 2;
    const Content wanted = content(*c.disk);
    disks->attach(*c.disk);
    run([&]() -> Task<> {
      MirrorOptions options = active_commit("j", *c.disk, *c.b);
      options.commit->empty_active = true;
      options.job.auto_finalize = false;
      co_await begin(std::move(options));
      co_await reach("j", JobStatus::ready);
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      co_await reach("j", JobStatus::pending);
      EXPECT_TRUE(disks->roots[0]->node().driver().is_filter());
      const std::uint64_t left = co_await held(*c.disk);
      EXPECT_EQ(left, 0u) << "seed " << seed;
      if (pivots) co_await jobs->finalize("j");
      else EXPECT_TRUE(jobs->cancel(job("j"), true).ok());
      co_await end_of("j");
    });
    EXPECT_EQ(&disks->roots[0]->node(), pivots ? c.b : c.disk);
    EXPECT_TRUE(content(disks->roots[0]->node()) == wanted) << "seed " << seed;
    EXPECT_EQ(c.disk->backing(), c.b);
  }
}

// The disk is the same whatever fails while its top gives up what it holds.
TEST_F(KeepActiveTest, ErrorsWhileItGivesUpAll) {
  bool failed_once = false, succeeded_once = false;
  for (std::uint64_t skip = 0; skip < 12; ++skip) {
    restart(skip + 150);
    const Chain c = chain();
    const Content wanted = content(*c.disk);
    disks->attach(*c.disk);
    run([&]() -> Task<> {
      MirrorOptions options = active_commit("j", *c.disk, *c.base);
      options.commit->empty_active = true;
      options.commit->backing_file = "base.qcow2";
      co_await begin(std::move(options));
      co_await reach("j", JobStatus::ready);
      disks->set_faults("disk", {failing(FaultOp::write, skip, 1)});
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      co_await end_of("j");
      disks->set_faults("disk", {});
    });
    const bool failed = events.take().find("Input/output error") != std::string::npos;
    (failed ? failed_once : succeeded_once) = true;
    EXPECT_EQ(&disks->roots[0]->node() == c.disk, failed) << skip;
    EXPECT_EQ(c.disk->backing() == c.base, backing_name_in(*c.disk) == "base.qcow2") << skip;
    EXPECT_TRUE(content(*c.disk) == wanted) << skip;
  }
  EXPECT_TRUE(failed_once && succeeded_once);
}

}  // namespace
}  // namespace tidemark::test
