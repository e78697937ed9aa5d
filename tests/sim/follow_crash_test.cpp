// A disk whose layers come and go, and what follows it, through power cuts at every operation.
#include <algorithm>
#include <deque>

#include "tests/sim/follow_session.hpp"

namespace tidemark::sim {
namespace {

using What = FollowStep::What;

struct FollowPlan {
  FollowScript script{};
  FollowScript before{};                     // done to the chain, and never cut off
  std::uint64_t seeds = 2;
  Rule broken = Rule::none;
  bool any = false;                          // a script of the seed's own
};

struct FollowReport {
  std::uint64_t crashes = 0;
  std::optional<Error> failure;
  std::string story, again;
};

// base <- a <- b <- disk, with bitmaps that began on each.
FollowScript chain() {
  return {{What::write}, {What::stay, "stays"}, {What::add, "old"}, {What::checkpoint, "one"}, {What::write}, {What::snapshot, "/d/a"},
          {What::write}, {What::checkpoint, "two"}, {What::snapshot, "/d/b"}, {What::write}, {What::add, "late"},
          {What::snapshot, "/d/disk"}, {What::write}};
}

// Steps as they come, one after another.
FollowScript any_script(std::uint64_t seed) {
  const FollowScript all{{What::commit, "", "/d/b", "/d/a"}, {What::commit, "", "/d/b", "/d/base"}, {What::commit, "", "/d/a", "/d/base"},
                         {What::commit, "", "", "/d/b"}, {What::commit, "", "", "/d/a"}, {What::commit, "", "", "/d/base"},
                         {What::commit, "", "", "/d/a", true}, {What::commit, "", "", "/d/a", false, true}, {What::stream},
                         {What::stream, "", "", "/d/a"}, {What::mirror, "/d/copy"}, {What::mirror, "/d/copy.raw", "", "raw"},
                         {What::snapshot, "/d/s"}, {What::snapshot_sync, "/d/t"}, {What::restart}, {What::restart},
                         {What::checkpoint, "three"}, {What::remove_checkpoint, "one"}, {What::remove_checkpoint, "two"},
                         {What::remove, "old"}, {What::remove, "late"}, {What::add, "new"}, {What::clear, "old"}, {What::write}};
  Prng random(seed);
  FollowScript script;
  for (int i = 0; i < 6; ++i) script.push_back(all[random.below(all.size())]);
  return script;
}

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

class FollowRun {
 public:
  FollowRun(const FollowPlan& plan, CrashCase only)
      : plan_(plan), only_(only), script_(plan.any ? any_script(only.seed) : plan.script) {}

  void run(FollowReport& report, bool tell) {
    report_ = &report;
    if (tell)
      trace_ = [this](std::string_view line) {
        lines_.emplace_back(line);
        if (lines_.size() > from_environment("TM_SIM_STORY", 60)) lines_.pop_front();
      };
    SimOptions options;
    options.short_file_ppm = 0;
    SimWorld world(only_.seed, options);
    world.disk().make_directory("/d");
    known_.formats["/d/base"] = only_.seed % 2 == 0 ? "raw" : "qcow2";
    prepare(world);
    if (!report.failure) crash_everywhere(world);
    for (const std::string& line : lines_) report.story += "  " + line + "\n";
  }

 private:
  void prepare(SimWorld& world) {
    SimProcess process(world, "prepare");
    FollowSession session(process, known_, Rule::none, only_.seed, {});
    FollowScript all = chain();
    all.insert(all.end(), plan_.before.begin(), plan_.before.end());
    told(process.run(session.make_and_run(std::move(all))));
    world.disk().sync_all();
    known_.step = 0;
  }

  void crash_everywhere(SimWorld& world) {
    SimProcess process(world, "run");
    FollowSession session(process, known_, plan_.broken, only_.seed, trace_);
    if (trace_) world.trace_to(trace_);
    world.watch_ops([&] {
      const std::uint64_t op = world.ops();
      if (report_->failure || (only_.op != 0 && only_.op != op)) return;
      crash(world, session.has_left(), op);
    });
    const Result<> ran = process.run(session.run(script_));
    world.watch_ops({});
    if (!report_->failure) told(ran);
    if (!report_->failure && only_.op == 0) crash(world, false, 0);
  }

  void crash(const SimWorld& world, bool left, std::uint64_t op) {
    const std::unique_ptr<SimWorld> found = world.after_crash(op);
    FollowKnown known = known_;
    known.gone_astray = left;
    ++report_->crashes;
    under_way_ = {only_.seed, op, 0};
    Prng random(only_.seed ^ (op << 16));
    if (trace_) trace_("a power cut");
    if (trace_) found->trace_to(trace_);
    if (random.chance(1, 4)) recover(*found, known, random);
    if (report_->failure) return;
    SimProcess process(*found, "look");
    FollowSession session(process, known, plan_.broken, random(), trace_);
    told(process.run(session.look(script_, random.chance(1, 3))));
  }

  // Cut off, too.
  void recover(SimWorld& world, FollowKnown& known, Prng& random) {
    const std::uint64_t crashes = world.crashes();
    world.crash_after_ops(1 + random.below(20));
    SimProcess process(world, "recover");
    FollowSession session(process, known, plan_.broken, random(), trace_);
    const Result<> done = process.run(session.open_and_close());
    world.crash_after_ops(0);
    ++report_->crashes;
    if (world.crashes() == crashes) told(done);
  }

  void told(const Result<>& result) {
    if (result || report_->failure) return;
    report_->failure = result.error();
    report_->again = "TM_SIM_SEED=" + std::to_string(under_way_.seed) + " TM_SIM_OP=" + std::to_string(under_way_.op);
    last = under_way_;
  }

 public:
  CrashCase last;

 private:
  const FollowPlan& plan_;
  const CrashCase only_;
  const FollowScript script_;
  CrashCase under_way_;
  FollowReport* report_ = nullptr;
  FollowKnown known_;
  FollowSession::Trace trace_;
  std::deque<std::string> lines_;
};

FollowReport follow(const FollowPlan& plan) {
  FollowReport report;
  const std::uint64_t first = from_environment("TM_SIM_SEED", from_environment("TM_SIM_FIRST", 1));
  const std::uint64_t seeds = std::getenv("TM_SIM_SEED") ? 1 : from_environment("TM_SIM_SEEDS", plan.seeds);
  for (std::uint64_t seed = first; seed < first + seeds && !report.failure; ++seed) {
    const CrashCase only{seed, from_environment("TM_SIM_OP", 0), 0};
    FollowRun run(plan, only);
    run.run(report, false);
    if (!report.failure) continue;
    FollowReport once_more;
    FollowRun same(plan, run.last);
    same.run(once_more, true);
    report.story = once_more.story;
  }
  if (std::getenv("TM_SIM_SEEDS")) std::printf("%llu crashes\n", static_cast<unsigned long long>(report.crashes));
  return report;
}

testing::AssertionResult follows(const FollowPlan& plan) {
  const FollowReport report = follow(plan);
  if (!report.failure) return testing::AssertionSuccess();
  const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info();
  return testing::AssertionFailure() << report.failure->message() << "\n" << report.story << "to see it again: " << report.again << " "
                                     << program_invocation_name << " --gtest_filter=" << test->test_suite_name() << "." << test->name();
}

testing::AssertionResult follows(FollowScript script, FollowScript before = {}) {
  FollowPlan plan{std::move(script), std::move(before)};
  const auto writes_base = [](const FollowStep& step) { return step.what == What::commit && step.base == "/d/base"; };
  if (std::ranges::none_of(plan.script, writes_base)) plan.seeds = 1;      // else the base is raw in one, qcow2 in the other
  return follows(plan);
}

// A rule that is broken is found out, by that.
testing::AssertionResult found_out(Rule rule, FollowScript before, FollowScript script, std::string by) {
  FollowPlan plan{std::move(script), std::move(before)};
  plan.broken = rule;
  plan.seeds = 8;
  const FollowReport report = follow(plan);
  if (!report.failure) return testing::AssertionFailure() << report.crashes << " crashes found nothing";
  if (report.failure->message().find(by) == std::string::npos) return testing::AssertionFailure() << report.failure->message();
  return testing::AssertionSuccess();
}

TEST(FollowCrash, Snapshot) { EXPECT_TRUE(follows({{What::snapshot, "/d/s"}, {What::write}})); }
TEST(FollowCrash, SnapshotInAFileThatIsMade) { EXPECT_TRUE(follows({{What::snapshot_sync, "/d/s"}, {What::write}})); }
TEST(FollowCrash, CommitOfOneLayer) { EXPECT_TRUE(follows({{What::commit, "", "/d/b", "/d/a"}})); }
TEST(FollowCrash, CommitOfSeveralLayers) { EXPECT_TRUE(follows({{What::commit, "", "/d/b", "/d/base"}})); }
TEST(FollowCrash, CommitOfALayerBelow) { EXPECT_TRUE(follows({{What::commit, "", "/d/a", "/d/base"}})); }
TEST(FollowCrash, CommitOfTheDiskByAPivot) { EXPECT_TRUE(follows({{What::commit, "", "", "/d/b"}, {What::write}})); }
TEST(FollowCrash, CommitOfAllByAPivot) { EXPECT_TRUE(follows({{What::commit, "", "", "/d/base"}, {What::write}})); }
TEST(FollowCrash, CommitOfTheDiskThatStays) { EXPECT_TRUE(follows({{What::commit, "", "", "/d/a", true}, {What::write}})); }
TEST(FollowCrash, CommitOfTheDiskThatIsEmptied) { EXPECT_TRUE(follows({{What::commit, "", "", "/d/base", false, true}, {What::write}})); }
TEST(FollowCrash, StreamToNothing) { EXPECT_TRUE(follows({{What::stream}})); }
TEST(FollowCrash, StreamToABase) { EXPECT_TRUE(follows({{What::stream, "", "", "/d/a"}})); }
TEST(FollowCrash, MirrorByAPivot) { EXPECT_TRUE(follows({{What::mirror, "/d/copy"}, {What::write}})); }
TEST(FollowCrash, MirrorToARawImageByAPivot) { EXPECT_TRUE(follows({{What::mirror, "/d/copy", "", "raw"}, {What::write}})); }

TEST(FollowCrash, SnapshotThatIsCommittedBack) {
  EXPECT_TRUE(follows({{What::snapshot, "/d/s"}, {What::checkpoint, "three"}, {What::write}, {What::commit, "", "", "/d/disk"}}));
}
TEST(FollowCrash, BitmapsThatGoAndComeOnAChain) {
  EXPECT_TRUE(follows({{What::remove, "old"}, {What::remove_checkpoint, "two"}, {What::clear, "late"}, {What::add, "new"},
                       {What::checkpoint, "three"}}));
}
TEST(FollowCrash, BitmapsThatAreRemovedStayAwayFromTheBase) {
  EXPECT_TRUE(follows({{What::commit, "", "", "/d/base"}}, {{What::remove, "old"}, {What::remove_checkpoint, "one"}, {What::restart}}));
}
TEST(FollowCrash, AnythingAfterAnything) {
  FollowPlan plan;
  plan.any = true;
  EXPECT_TRUE(follows(plan));
}

TEST(FollowCrash, ASnapshotBeforeItsBitmapsAreDurable) {
  EXPECT_TRUE(found_out(Rule::save_before_reply, {}, {{What::snapshot, "/d/s"}, {What::write}}, "is gone"));
}
TEST(FollowCrash, APivotBeforeTheBitmapsAreDurable) {
  EXPECT_TRUE(found_out(Rule::save_before_reply, {}, {{What::mirror, "/d/copy"}, {What::write}}, "is gone"));
}
TEST(FollowCrash, AWriteAfterAPivotThatDoesNotWaitForItsMark) {
  const FollowScript raw{{What::mirror, "/d/copy", "", "raw"}};
  EXPECT_TRUE(found_out(Rule::wait_for_log, raw, {{What::add, "new"}, {What::write}, {What::write}}, "has lost the change"));
}

}  // namespace
}  // namespace tidemark::sim
