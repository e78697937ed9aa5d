// The tracking store's log through power cuts: what append() has promised, the scan finds, and no crash
// makes it call the log damaged.  A log that does not write durably is caught.
#include <algorithm>

#include "task/finally.hpp"
#include "task/group.hpp"
#include "tests/sim/harness.hpp"
#include "tracking/log.hpp"
#include "tracking/log_scan.hpp"

namespace tidemark::sim {
namespace {

using tracking::Log;
using tracking::Superblock;

constexpr std::uint64_t half_bytes = 8 * tracking::log_block_bytes;

class Appends : public Workload, tracking::LogOwner {
 public:
  explicit Appends(bool durable) : durable_(durable) {
    root_.store_id = 11;
    root_.log_bytes = half_bytes;
    root_.log_epoch = 4;
  }

  Task<> prepare(SimProcess& process) override {
    const std::vector<std::byte> zeroes(root_.data_start());
    process.backend().world().disk().import_file("/store", zeroes);
    co_return;
  }
  Task<> run(SimProcess& process) override {
    File file = co_await open(process);
    auto close = [&file] { return file.close(); };
    co_await finally(append_all(process.reactor(), file), close);
  }
  Task<> verify(SimProcess& process) override {
    File file = co_await open(process);
    auto close = [&file] { return file.close(); };
    co_await finally(look(file), close);
  }

 private:
  static constexpr std::uint64_t appenders = 5, rounds = 12;

  Task<File> open(SimProcess& process) {
    OpenFlags flags;
    flags.write = flags.direct = true;
    return File::open(process.reactor(), "/store", flags);
  }
  Task<> append_all(Reactor& reactor, File& file) {
    Home home(reactor);
    Log log(home, file, *this);
    log_ = &log;
    log.start(root_, durable_);
    auto body = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t i = 0; i < appenders; ++i) group.spawn(append_some(log, i));
      co_await group.join();
    };
    const Result<> appended = co_await with_group(reactor, body).result();
    co_await log.stop();
    log_ = nullptr;
    co_await unwrap(appended);
  }
  Task<> append_some(Log& log, std::uint64_t appender) {
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const Range range{(appender * rounds + round) * 4096, 4096};
      co_await log.append(range);
      promised_.push_back(range);
    }
  }
  void logged(std::span<const Range>, std::uint64_t) noexcept override {}
  // The first full half is followed by the other; after that no root has moved on, so no more is taken.
  void log_fills() noexcept override {
    if (log_->full() && log_->epoch() == root_.log_epoch) log_->rotate(root_.log_epoch + 1);
    else if (log_->full()) log_->refuse(Error(Errc::no_space, "both halves are full"));
  }

  Task<> look(File& file) {
    std::vector<Range> found;
    for (std::uint64_t epoch = root_.log_epoch; epoch < root_.log_epoch + 2; ++epoch) {
      AlignedBuffer half(half_bytes);
      co_await file.read(root_.half_start(epoch), half.bytes());
      const tracking::LogScan scan = tracking::scan_log(half.bytes(), root_.store_id, epoch);
      if (scan.broken) co_await Error(Errc::corrupt, *scan.broken);
      found.insert(found.end(), scan.ranges.begin(), scan.ranges.end());
    }
    for (const Range range : promised_)
      if (std::find(found.begin(), found.end(), range) == found.end())
        co_await Error(Errc::corrupt, "range at " + std::to_string(range.offset) + " is lost");
  }

  Superblock root_;
  bool durable_;
  Log* log_ = nullptr;
  std::vector<Range> promised_;
};

// A write of an epoch that has failed is not waited for when the next one has begun.
class FailThenRotate : public tracking::LogOwner {
 public:
  Task<> run(SimProcess& process) {
    OpenFlags flags;
    flags.write = flags.create = true;
    File file = co_await File::open(process.reactor(), "/store", flags);
    auto close = [&file] { return file.close(); };
    co_await finally(use(process.reactor(), file), close);
  }
  std::uint64_t heard = 0;

 private:
  Task<> use(Reactor& reactor, File& file) {
    Superblock root;
    root.log_bytes = half_bytes;
    Home home(reactor);
    Log log(home, file, *this);
    log.start(root, true);
    const Range range{0, 4096};
    const Result<> failed = co_await log.append(range).result();
    EXPECT_FALSE(failed.ok());
    log.rotate(1);
    co_await log.wait_older();
    const Result<> written = co_await log.append(range).result();
    co_await log.stop();
    co_await unwrap(written);
  }
  void logged(std::span<const Range> ranges, std::uint64_t epoch) noexcept override { heard += ranges.size() * epoch; }
  void log_fills() noexcept override {}
};

TEST(TrackingLog, GoesOnInTheOtherHalfAfterAFailure) {
  SimWorld world(1);
  SimFault fault;
  fault.kind = IoOp::Kind::write;
  world.faults().add(fault);
  SimProcess process(world);
  FailThenRotate test;
  const Result<> done = process.run(test.run(process));
  EXPECT_TRUE(done.ok()) << done.error().message();
  EXPECT_EQ(test.heard, 1u);
}

CrashPlan plan() {
  CrashPlan plan;
  plan.seeds = 8;
  plan.may_fail = true;                   // both halves may fill up
  return plan;
}

TEST(TrackingLogCrash, WhatWasPromisedIsFound) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<Appends>(true); }, plan()));
}

TEST(TrackingLogCrash, WriteErrorsLoseNothingThatWasPromised) {
  CrashPlan failing = plan();
  failing.options.write_error_ppm = 20'000;
  const auto make = [] { return std::make_unique<Appends>(true); };
  EXPECT_TRUE(survives_crashes(make, failing));
}

TEST(TrackingLogCrash, ALogThatDoesNotWaitForTheDiskIsCaught) {
  EXPECT_TRUE(try_crashes([] { return std::make_unique<Appends>(false); }, plan()).failure.has_value());
}

}  // namespace
}  // namespace tidemark::sim
