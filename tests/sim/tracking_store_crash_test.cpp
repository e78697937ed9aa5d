// The tracking store through power cuts, kills and failures, and proof that each rule of it is needed.
#include "tests/sim/tracking_workload.hpp"

namespace tidemark::sim {
namespace {

using tracking::Rule;

CrashPlan plan() {
  CrashPlan plan;
  // Sizes that are no multiple of a sector are not what this is about.
  plan.options.short_file_ppm = 0;
  plan.seeds = 12;
  plan.ops_max = 25;
  plan.fates = 2;
  return plan;
}

testing::AssertionResult survives(TrackedDisk disk, CrashPlan how = plan()) {
  return survives_crashes([disk] { return std::make_unique<TrackedLoad>(disk); }, how);
}

TEST(TrackingCrash, RandomWrites) { EXPECT_TRUE(survives({})); }

TEST(TrackingCrash, SequentialWrites) {
  TrackedDisk disk;
  disk.sequential = true;
  disk.size = 1 * MiB;
  disk.steps = 60;
  EXPECT_TRUE(survives(disk));
}

TEST(TrackingCrash, ALogThatHoldsLittle) {
  TrackedDisk disk;
  disk.log_bytes = 4096;
  EXPECT_TRUE(survives(disk));
}

TEST(TrackingCrash, AStoreThatFails) {
  TrackedDisk disk;
  disk.store_fails = true;
  EXPECT_TRUE(survives(disk));
}

// Roots alone, written again and again over crashes: there is always one, and never one of before.
class Roots : public Workload {
 public:
  Task<> prepare(SimProcess& process) override {
    const auto make = [this](tracking::StoreFile& file) -> Task<> {
      co_await file.format(log_bytes);
      co_await write(file);
    };
    co_await with_file(process, tracking::StoreFile::Use::make, make);
  }
  Task<> run(SimProcess& process) override { return go_on(process, 3); }
  Task<> recover(SimProcess& process) override { return go_on(process, 2); }
  Task<> verify(SimProcess& process) override { return go_on(process, 0); }

 private:
  static constexpr std::uint64_t log_bytes = 4 * KiB;

  template <class Body>
  static Task<> with_file(SimProcess& process, tracking::StoreFile::Use use, const Body& body) {
    tracking::StoreFile file;
    co_await file.open(process.reactor(), "/store", use);
    const Result<> done = co_await body(file).result();
    co_await file.close();
    co_await unwrap(done);
  }
  Task<> go_on(SimProcess& process, int writes) {
    const auto body = [&](tracking::StoreFile& file) -> Task<> {
      const auto found = co_await file.read_root();
      if (!found) co_await Error(Errc::corrupt, "there is no root");
      if (found->version < least_) co_await Error(Errc::corrupt, "a root of before counts again");
      least_ = version_ = found->version;
      for (int i = 0; i < writes; ++i) co_await write(file);
    };
    co_await with_file(process, tracking::StoreFile::Use::write, body);
  }
  Task<> write(tracking::StoreFile& file) {
    tracking::Superblock root;
    root.log_bytes = log_bytes;
    root.catalogue = {root.data_start(), root.data_start()};
    root.version = ++version_;
    co_await file.write_root(root, true);
    least_ = version_;
  }
  std::uint64_t version_ = 0, least_ = 0;        // that was written, that must be there
};

TEST(TrackingCrash, ARootIsNeverOneOfBefore) {
  CrashPlan often = plan();
  often.seeds = 40;
  often.fates = 20;
  EXPECT_TRUE(survives_crashes<Roots>(often));
}

// A rule that is broken is found out.
class BrokenRule : public testing::TestWithParam<Rule> {};

TEST_P(BrokenRule, IsFoundOut) {
  TrackedDisk disk;
  disk.broken = GetParam();
  disk.store_fails = disk.broken == Rule::say_lost || disk.broken == Rule::turn_if_none_passed;
  CrashPlan many = plan();
  many.seeds = 60;
  if (disk.broken == Rule::cover_after_turn) {
    // Two writes have to meet in one granule, and a checkpoint between them.
    disk.size = disk.log_bytes = 4 * KiB;
    disk.resize = false;
    many.seeds = 300;
  }
  CrashReport report = try_crashes([disk] { return std::make_unique<TrackedLoad>(disk); }, many);
  if (!report.failure) {
    disk.sequential = true;
    disk.size = 1 * MiB;
    disk.steps = 60;
    report = try_crashes([disk] { return std::make_unique<TrackedLoad>(disk); }, many);
  }
  ASSERT_TRUE(report.failure.has_value()) << report.cases << " cases";
  RecordProperty("cases", std::to_string(report.cases));
  const std::string& what = report.failure->message();
  EXPECT_TRUE(what.find("has lost the change") != what.npos || what.ends_with("is gone")) << what;
}

INSTANTIATE_TEST_SUITE_P(Tracking, BrokenRule,
                         testing::Values(Rule::wait_for_log, Rule::log_durably, Rule::end_zones, Rule::wait_for_older_logs,
                                         Rule::cover_after_turn, Rule::sync_before_turn,
                                         Rule::flush_before_loss, Rule::keep_until_released, Rule::uncover_losses,
                                         Rule::turn_if_none_passed, Rule::say_lost, Rule::recover_both_epochs, Rule::recover_frozen));

}  // namespace
}  // namespace tidemark::sim
