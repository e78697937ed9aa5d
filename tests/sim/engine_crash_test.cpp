// The whole engine through power cuts, kills and failures, driven by QMP's commands; and proof that it can fail.
#include <gtest/gtest.h>
#include <malloc.h>

#include <csignal>
#include <cstdlib>
#include <deque>

#include "tests/sim/engine_run.hpp"

namespace tidemark::sim {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::string reproduction(const LifeCase& at) {
  std::string command = "TM_SIM_SEED=" + std::to_string(at.seed) + " TM_SIM_OP=" + std::to_string(at.op) +
                        " TM_SIM_FATE=" + std::to_string(at.fate) + " " + program_invocation_name;
  if (const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info())
    command += std::string(" --gtest_filter=") + test->test_suite_name() + "." + test->name();
  return command;
}

// The last things that happened, where one case is asked for.
std::deque<std::string> story;
void tell_story() {
  for (const std::string& line : story) std::printf("  %s\n", line.c_str());
}

// Where an assertion or a deadlock ends the program.
LifeCase under_way;
void say_where(int) {
  tell_story();
  std::fflush(stdout);
  std::fprintf(stderr, "to see it again: %s\n", reproduction(under_way).c_str());
}

// Lives from `first` on, to the first failure.
LifeReport live_many(std::uint64_t first, std::uint64_t lives, const LifePlan& plan) {
  std::signal(SIGABRT, say_where);
  (void)mallopt(M_MMAP_THRESHOLD, 32 << 20);       // disks come and go
  (void)mallopt(M_TRIM_THRESHOLD, 256 << 20);
  LifeReport sum;
  for (std::uint64_t i = 0; i < lives && !sum.failure; ++i) {
    const LifeReport life = live({first + i, 0, 0}, plan, under_way);
    sum.crashes += life.crashes;
    sum.places += life.places;
    sum.ops += life.ops;
    sum.failure = life.failure;
  }
  return sum;
}

// TM_SIM_SEEDS=1000 in the environment lives that many lives, from TM_SIM_FIRST on; TM_SIM_SEED, TM_SIM_OP and
// TM_SIM_FATE are one crash, told with the last TM_SIM_STORY things that happened.
void survive(LifePlan plan, std::uint64_t first, std::uint64_t lives) {
  LifeReport sum;
  const std::uint64_t lines = from_environment("TM_SIM_STORY", 400);
  if (std::getenv("TM_SIM_SEED")) {
    const LifeCase only{from_environment("TM_SIM_SEED", 1), from_environment("TM_SIM_OP", 0), from_environment("TM_SIM_FATE", 0)};
    plan.trace = [&](std::string_view line) {
      story.emplace_back(line);
      if (story.size() > lines) story.pop_front();
    };
    std::signal(SIGABRT, say_where);
    sum = live(only, plan, under_way);
  } else {
    sum = live_many(from_environment("TM_SIM_FIRST", first), from_environment("TM_SIM_SEEDS", lives), plan);
  }
  if (sum.failure) tell_story();
  std::printf("%llu crashes at %llu of %llu operations\n", static_cast<unsigned long long>(sum.crashes),
              static_cast<unsigned long long>(sum.places), static_cast<unsigned long long>(sum.ops));
  EXPECT_FALSE(sum.failure) << sum.failure->message() << "\nto see it again: " << reproduction(under_way);
}

TEST(Engine, SurvivesItsLives) { survive(LifePlan(), 1, 12); }

// Power cuts at every operation, or every second one: of opening and closing, too.
TEST(Engine, SurvivesEveryMoment) {
  LifePlan plan;
  plan.sessions = 2;
  plan.steps = 2;
  plan.gap = 1;
  plan.fates = 1;
  plan.faults = false;
  survive(plan, 101, 4);
}

// A rule that is broken is found out.
class BrokenEngine : public testing::TestWithParam<Rule> {};

TEST_P(BrokenEngine, IsFoundOut) {
  LifePlan plan;
  plan.faults = false;
  plan.cancels = 2;
  // Many lives find more than many ends of one, and bits that a job that failed has lost are seen without any.
  const bool seen_alive = GetParam() == Rule::reclaim_on_failure;
  plan.gap = seen_alive ? 2000 : 60;
  plan.workings.broken = GetParam();
  const std::uint64_t first = GetParam() == Rule::recover_frozen ? 241 : 1;      // where it does not take minutes
  const LifeReport sum = live_many(from_environment("TM_SIM_FIRST", first),
                                   from_environment("TM_SIM_SEEDS", seen_alive ? 4000 : 120), plan);
  ASSERT_TRUE(sum.failure.has_value()) << sum.crashes << " crashes";
  RecordProperty("crashes", std::to_string(sum.crashes));
  RecordProperty("seen", sum.failure->message());
}

INSTANTIATE_TEST_SUITE_P(Engine, BrokenEngine,
                         testing::Values(Rule::wait_for_log, Rule::end_zones, Rule::flush_before_loss, Rule::mark_image,
                                         Rule::recover_frozen, Rule::data_before_tables, Rule::refcounts_before_tables,
                                         Rule::preserve_before_write, Rule::flush_target, Rule::reclaim_on_failure,
                                         Rule::drain_together, Rule::save_before_reply));

}  // namespace
}  // namespace tidemark::sim
