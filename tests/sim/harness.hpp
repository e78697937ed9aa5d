// Crash tests: run a workload on a simulated machine, cut the power at an operation, restart, look
// whether what had been promised is there.  src/io/sim/world.hpp has the crash model.
//
//   TEST(Qcow2Crash, FlushedWritesSurvive) {
//     CrashPlan plan;
//     EXPECT_TRUE(survives_crashes<WriteAndFlush>(plan));
//   }
//
// A failure prints one command that runs just the case that failed, with the operations before it:
//
//   TM_SIM_SEED=3 TM_SIM_OP=17 TM_SIM_FATE=2 build/sim_test --gtest_filter=Qcow2Crash.FlushedWritesSurvive
//
// TM_SIM_SEEDS=1000 in the environment tries that many seeds instead of the plan's, from TM_SIM_FIRST on, and prints
// how many crashes there were.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "io/sim/process.hpp"

namespace tidemark::sim {

// A new object a case: its members remember what the workload was promised and has tried.
class Workload {
 public:
  virtual ~Workload() = default;

  // Makes what the run starts from.  It does not crash, and all of it is durable.
  virtual Task<> prepare(SimProcess&) { co_return; }
  // What is crashed at any operation; it then ends with an error, unless it had ended.
  virtual Task<> run(SimProcess& process) = 0;
  // What the restarted program does first.  Some cases crash here too, and begin it again.
  virtual Task<> recover(SimProcess&) { co_return; }
  // An error says which promise was broken.
  virtual Task<> verify(SimProcess& process) = 0;
};
using MakeWorkload = std::function<std::unique_ptr<Workload>()>;

struct CrashCase {
  std::uint64_t seed = 1;               // of the run
  std::uint64_t op = 0;                 // the crash comes at this operation of it; 0: when it has ended
  std::uint64_t fate = 0;               // varies what the crash leaves, and a crash in recover()
};

struct CrashPlan {
  SimOptions options;
  std::uint64_t first_seed = 1, seeds = 4;
  std::uint64_t ops_max = 50;           // operations crashed at for each seed: all, or so many of them
  std::uint64_t fates = 4;              // for each of those
  bool may_fail = false;                // run() may end with an error of its own (injected faults)
};

struct CrashReport {
  std::uint64_t cases = 0;
  CrashCase last;                       // the one that failed, if one did
  std::optional<Error> failure;
};

// Stops at the first failure.
CrashReport try_crashes(const MakeWorkload& make, const CrashPlan& plan);
// One case; `trace` takes its operations.
Result<> try_crash(const MakeWorkload& make, const CrashPlan& plan, const CrashCase& at,
                   std::function<void(std::string_view)> trace = {});

// The same for a test: obeys the environment, and explains a failure.
testing::AssertionResult survives_crashes(const MakeWorkload& make, const CrashPlan& plan);
template <class W>
testing::AssertionResult survives_crashes(const CrashPlan& plan) {
  return survives_crashes([] { return std::make_unique<W>(); }, plan);
}

}  // namespace tidemark::sim
