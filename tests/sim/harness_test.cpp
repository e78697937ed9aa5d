// The harness proven by a toy: a data file that is updated in place, behind a write-ahead log.  Done
// right it survives; with any one of its syncs left out the harness finds it out.
#include "tests/sim/harness.hpp"

#include <gmock/gmock.h>

#include <algorithm>

#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::sim {
namespace {

enum class Bug : std::uint8_t { none, log_not_synced, data_not_synced, name_not_synced };

constexpr std::size_t slot = 512, slots = 4;
constexpr std::uint64_t rounds = 4;

OpenFlags writing() {
  OpenFlags flags;
  flags.write = flags.create = true;
  return flags;
}

// All slots of the data file have the same number.  The log has the number that is being written,
// in every sector of its own, so that a torn record is seen.
class Toy : public Workload {
 public:
  explicit Toy(Bug bug) : bug_(bug) {}

  Task<> prepare(SimProcess& process) override {
    auto fill = [this](File& data) { return write(data, 0, false); };
    co_await with("/data", process, fill);
  }

  Task<> run(SimProcess& process) override {
    auto with_data = [&](File& data) -> Task<> {
      auto with_log = [&](File& log) { return update(process, data, log); };
      co_await with("/log", process, with_log);
    };
    co_await with("/data", process, with_data);
  }

  Task<> recover(SimProcess& process) override {
    auto with_data = [&](File& data) -> Task<> {
      auto with_log = [&](File& log) -> Task<> {
        const std::optional<std::uint64_t> logged = co_await read(log);
        if (logged) co_await write(data, *logged, true);
      };
      co_await with("/log", process, with_log);
    };
    co_await with("/data", process, with_data);
  }

  Task<> verify(SimProcess& process) override {
    auto check = [this](File& data) -> Task<> {
      const std::optional<std::uint64_t> number = co_await read(data);
      if (!number) co_await Error(Errc::corrupt, "an update is half there");
      if (*number < promised_) co_await Error(Errc::corrupt, "an update that was promised is gone");
      if (*number > tried_) co_await Error(Errc::corrupt, "an update from nowhere");
    };
    co_await with("/data", process, check);
  }

 private:
  // use(File&) -> Task<>
  template <class Use>
  Task<> with(std::string path, SimProcess& process, Use& use) {
    File file = co_await File::open(process.reactor(), std::move(path), writing());
    auto close = [&file] { return file.close(); };
    co_await finally(use(file), close);
  }

  Task<> update(SimProcess& process, File& data, File& log) {
    if (bug_ != Bug::name_not_synced) co_await fs::sync_dir(process.reactor(), "/");
    for (std::uint64_t number = 1; number <= rounds; ++number) {
      tried_ = number;
      co_await write(log, number, bug_ != Bug::log_not_synced);
      promised_ = number;
      co_await write(data, number, bug_ != Bug::data_not_synced);
    }
  }

  Task<> write(File& file, std::uint64_t number, bool sync) {
    std::vector<std::byte> content(slots * slot);
    for (std::size_t i = 0; i < slots; ++i) store_le(&content[i * slot], number);
    co_await file.write(0, Buffers::of_const(content));
    if (sync) co_await file.sync();
  }

  // The number, if all slots have the same.
  Task<std::optional<std::uint64_t>> read(File& file) {
    std::vector<std::byte> content(slots * slot);
    co_await file.read(0, MutableBytes(content));
    const auto first = load_le<std::uint64_t>(content.data());
    for (std::size_t i = 1; i < slots; ++i)
      if (load_le<std::uint64_t>(&content[i * slot]) != first) co_return std::nullopt;
    co_return first;
  }

  Bug bug_;
  std::uint64_t promised_ = 0, tried_ = 0;
};

MakeWorkload toy(Bug bug) {
  return [bug] { return std::make_unique<Toy>(bug); };
}

TEST(Harness, ACorrectWorkloadSurvives) {
  const CrashPlan plan;
  const CrashReport report = try_crashes(toy(Bug::none), plan);
  EXPECT_FALSE(report.failure) << report.failure->message();
  EXPECT_GT(report.cases, plan.seeds * plan.fates * rounds * 4);
  EXPECT_TRUE(survives_crashes(toy(Bug::none), plan));
}

TEST(Harness, EveryMissingSyncIsFound) {
  const CrashPlan plan;
  for (const Bug bug : {Bug::log_not_synced, Bug::data_not_synced, Bug::name_not_synced}) {
    const CrashReport report = try_crashes(toy(bug), plan);
    ASSERT_TRUE(report.failure) << static_cast<int>(bug) << " not found in " << report.cases;
    EXPECT_THAT(report.failure->message(), testing::StartsWith("verify: an update "));
    // The case alone fails in the same way, as often as one likes.
    for (int i = 0; i < 3; ++i) {
      const Result<> again = try_crash(toy(bug), plan, report.last);
      ASSERT_FALSE(again.ok());
      EXPECT_EQ(again.error().message(), report.failure->message());
    }
  }
}

TEST(Harness, AFailureSaysHowToSeeItAgain) {
  const CrashPlan plan;
  const CrashReport report = try_crashes(toy(Bug::data_not_synced), plan);
  const testing::AssertionResult result = survives_crashes(toy(Bug::data_not_synced), plan);
  ASSERT_FALSE(result);
  const std::string command = "to see it again: TM_SIM_SEED=" + std::to_string(report.last.seed) +
                              " TM_SIM_OP=" + std::to_string(report.last.op) +
                              " TM_SIM_FATE=" + std::to_string(report.last.fate) + " ";
  EXPECT_THAT(result.message(), testing::HasSubstr(command));
  EXPECT_THAT(result.message(),
              testing::HasSubstr(" --gtest_filter=Harness.AFailureSaysHowToSeeItAgain"));
  EXPECT_THAT(result.message(), testing::HasSubstr("run: write '/data' 0+2048"));
  EXPECT_THAT(result.message(), testing::HasSubstr("the machine crashes"));
}

// Sets a variable for as long as it lives.
class Environment {
 public:
  Environment(const char* name, std::uint64_t value) : name_(name) {
    ::setenv(name, std::to_string(value).c_str(), 1);
  }
  Environment(const Environment&) = delete;
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Harness, TheEnvironmentPicksACase) {
  const CrashPlan plan;
  const CrashReport report = try_crashes(toy(Bug::log_not_synced), plan);
  {
    const Environment seed("TM_SIM_SEED", report.last.seed), op("TM_SIM_OP", report.last.op),
        fate("TM_SIM_FATE", report.last.fate);
    EXPECT_FALSE(survives_crashes(toy(Bug::log_not_synced), plan));
    const testing::AssertionResult one = survives_crashes(toy(Bug::none), plan);
    EXPECT_STREQ(one.message(), "1 cases");
  }
  const Environment no_seeds("TM_SIM_SEEDS", 0);
  EXPECT_STREQ(survives_crashes(toy(Bug::log_not_synced), plan).message(), "0 cases");
}

class Fails : public Workload {
 public:
  Task<> run(SimProcess& process) override {
    (void)co_await fs::read_all(process.reactor(), "/none", 10);
  }
  Task<> verify(SimProcess&) override { co_return; }
};

TEST(Harness, AWorkloadThatFailsByItselfIsAFailure) {
  CrashPlan plan;
  const CrashReport report = try_crashes([] { return std::make_unique<Fails>(); }, plan);
  ASSERT_TRUE(report.failure);
  EXPECT_EQ(report.failure->message(), "run: open '/none': No such file or directory");
  plan.may_fail = true;
  EXPECT_TRUE(survives_crashes<Fails>(plan));
}

TEST(Harness, InjectedFaultsEndWithTheCrash) {
  CrashPlan plan;
  plan.may_fail = true;
  plan.options.write_error_ppm = plan.options.sync_error_ppm = plan.options.read_error_ppm = 50'000;
  EXPECT_TRUE(survives_crashes(toy(Bug::none), plan));
}

}  // namespace
}  // namespace tidemark::sim
