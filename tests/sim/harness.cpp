#include "tests/sim/harness.hpp"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <set>

namespace tidemark::sim {
namespace {

constexpr std::size_t trace_lines = 40;

using Step = Task<> (Workload::*)(SimProcess&);

Result<> perform(SimWorld& world, Workload& workload, std::string name, Step step) {
  SimProcess process(world, name);
  Result<> done = process.run((workload.*step)(process));
  if (!done) return done.error().with_context(name);
  return done;
}

// Nothing fails but by a crash.
SimOptions healthy(SimOptions options) {
  options.read_error_ppm = options.write_error_ppm = options.sync_error_ppm = 0;
  options.no_space_ppm = options.disconnect_ppm = 0;
  return options;
}

Result<> recover(SimWorld& world, Workload& workload, Prng prng) {
  const std::uint64_t crashes = world.crashes();
  if (prng.chance(1, 3)) {
    world.crash_after_ops(1 + prng.below(10));
    const Result<> recovered = perform(world, workload, "recover", &Workload::recover);
    world.crash_after_ops(0);
    if (world.crashes() == crashes) return recovered;       // it had ended before
  }
  return perform(world, workload, "recover", &Workload::recover);
}

// Also counts the operations of run().
Result<> run_case(const MakeWorkload& make, const CrashPlan& plan, const CrashCase& at,
                  std::function<void(std::string_view)> trace, std::uint64_t& ops) {
  SimOptions options = plan.options;
  options.crash_seed = at.fate;
  SimWorld world(at.seed, healthy(options));
  if (trace) world.trace_to(std::move(trace));
  const std::unique_ptr<Workload> workload = make();
  if (const auto prepared = perform(world, *workload, "prepare", &Workload::prepare); !prepared)
    return prepared;
  world.disk().sync_all();

  world.options() = options;
  const std::uint64_t ops_before = world.ops();
  world.crash_after_ops(at.op);
  const Result<> ran = perform(world, *workload, "run", &Workload::run);
  ops = world.ops() - ops_before;
  const bool crashed = world.crashes() != 0;
  if (!ran && !crashed && !plan.may_fail) return ran;
  if (!crashed) world.crash();

  world.options() = healthy(options);
  world.faults().clear();
  if (const auto recovered = recover(world, *workload, Prng(at.seed ^ at.fate)); !recovered)
    return recovered;
  return perform(world, *workload, "verify", &Workload::verify);
}

// All of 1..ops, or ops_max of them.
std::set<std::uint64_t> operations_to_crash_at(const CrashPlan& plan, std::uint64_t seed,
                                               std::uint64_t ops) {
  std::set<std::uint64_t> chosen;
  Prng prng(seed);
  if (ops > plan.ops_max)
    while (chosen.size() < plan.ops_max) chosen.insert(1 + prng.below(ops));
  else
    for (std::uint64_t op = 1; op <= ops; ++op) chosen.insert(op);
  return chosen;
}

std::optional<std::uint64_t> number_in_environment(const char* name) {
  const char* text = std::getenv(name);
  if (!text) return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const std::uint64_t number = std::strtoull(text, &end, 10);
  EXPECT_TRUE(errno == 0 && end != text && *end == '\0') << name << " is not a number: " << text;
  return number;
}

std::string reproduction(const CrashCase& at) {
  std::string command = "TM_SIM_SEED=" + std::to_string(at.seed) + " TM_SIM_OP=" +
                        std::to_string(at.op) + " TM_SIM_FATE=" + std::to_string(at.fate) + " " +
                        program_invocation_name;
  if (const testing::TestInfo* test = testing::UnitTest::GetInstance()->current_test_info())
    command += std::string(" --gtest_filter=") + test->test_suite_name() + "." + test->name();
  return command;
}

// The last operations of a case that is run once more for them.
std::string story(const MakeWorkload& make, const CrashPlan& plan, const CrashCase& at) {
  std::deque<std::string> lines;
  const auto keep = [&](std::string_view line) {
    lines.emplace_back(line);
    if (lines.size() > trace_lines) lines.pop_front();
  };
  (void)try_crash(make, plan, at, keep);
  std::string text;
  for (const std::string& line : lines) text += "  " + line + "\n";
  return text;
}

CrashReport report_one(const MakeWorkload& make, const CrashPlan& plan, const CrashCase& at) {
  const Result<> tried = try_crash(make, plan, at);
  CrashReport report{1, at, std::nullopt};
  if (!tried) report.failure = tried.error();
  return report;
}

}  // namespace

Result<> try_crash(const MakeWorkload& make, const CrashPlan& plan, const CrashCase& at,
                   std::function<void(std::string_view)> trace) {
  std::uint64_t ops = 0;
  return run_case(make, plan, at, std::move(trace), ops);
}

CrashReport try_crashes(const MakeWorkload& make, const CrashPlan& plan) {
  CrashReport report;
  for (std::uint64_t seed = plan.first_seed; seed < plan.first_seed + plan.seeds; ++seed) {
    std::uint64_t ops = 0;
    std::set<std::uint64_t> places{0};
    const auto try_at = [&](std::uint64_t op, std::uint64_t fate) {
      report.last = {seed, op, fate};
      ++report.cases;
      const Result<> tried = run_case(make, plan, report.last, {}, ops);
      if (!tried) report.failure = tried.error();
      return tried.ok();
    };
    if (!try_at(0, 0)) return report;             // tells how many operations there are
    places.merge(operations_to_crash_at(plan, seed, ops));
    for (const std::uint64_t op : places)
      for (std::uint64_t fate = 1; fate <= plan.fates; ++fate)
        if (!try_at(op, fate)) return report;
  }
  return report;
}

testing::AssertionResult survives_crashes(const MakeWorkload& make, const CrashPlan& plan) {
  CrashPlan wanted = plan;
  const auto seeds = number_in_environment("TM_SIM_SEEDS");
  wanted.seeds = seeds.value_or(plan.seeds);
  wanted.first_seed = number_in_environment("TM_SIM_FIRST").value_or(plan.first_seed);
  CrashReport report;
  if (const auto seed = number_in_environment("TM_SIM_SEED")) {
    const CrashCase at{*seed, number_in_environment("TM_SIM_OP").value_or(0),
                       number_in_environment("TM_SIM_FATE").value_or(0)};
    report = report_one(make, wanted, at);
  } else {
    report = try_crashes(make, wanted);
  }
  if (seeds) std::printf("%llu crashes\n", static_cast<unsigned long long>(report.cases));
  if (!report.failure) return testing::AssertionSuccess() << report.cases << " cases";
  return testing::AssertionFailure()
         << report.failure->message() << "\n"
         << story(make, wanted, report.last) << "to see it again: " << reproduction(report.last);
}

}  // namespace tidemark::sim
