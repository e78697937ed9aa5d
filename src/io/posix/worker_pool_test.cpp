#include "io/posix/worker_pool.hpp"

#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <deque>
#include <latch>
#include <thread>

namespace tidemark::posix {
namespace {

class WorkerPoolTest : public testing::Test {
 protected:
  struct Job {
    explicit Job(std::function<void()> work) : op(IoOp::Kind::work) {
      extra.work = std::move(work);
      op.extra = &extra;
    }
    IoOp::Extra extra;
    IoOp op;
  };
  Job& submit(std::function<void()> work) {
    Job& job = jobs_.emplace_back(std::move(work));
    pool().submit(job.op);
    return job;
  }
  WorkerPool& pool() {
    if (!pool_) pool_ = std::make_unique<WorkerPool>(wakeup_, 8);
    return *pool_;
  }
  // As a backend waits: sleeps unless notified.
  void wait_until(std::size_t count) {
    pool().flush();
    while (done_.size() < count) {
      if (wakeup_.begin_sleep()) {
        pollfd readable = {wakeup_.fd(), POLLIN, 0};
        ASSERT_EQ(::poll(&readable, 1, 20'000), 1);
        wakeup_.drain();
      }
      wakeup_.end_sleep();
      pool().take(done_);
    }
  }
  Wakeup wakeup_{*Wakeup::open()};
  std::deque<Job> jobs_;
  std::vector<IoOp*> done_;
  std::unique_ptr<WorkerPool> pool_;
};

TEST_F(WorkerPoolTest, RunsEverythingOnce) {
  std::atomic<int> runs = 0;
  for (int i = 0; i < 5000; ++i) {
    submit([&] { ++runs; });
    if (i % 7 == 0) pool().flush();
  }
  wait_until(5000);
  EXPECT_EQ(runs, 5000);
  EXPECT_TRUE(pool().idle());
  std::sort(done_.begin(), done_.end());
  EXPECT_EQ(std::unique(done_.begin(), done_.end()), done_.end());
}

TEST_F(WorkerPoolTest, WhatHasNotBegunIsCancelled) {
  std::latch begun(1), go_on(1);
  Job& running = submit([&] {
    begun.count_down();
    go_on.wait();
  });
  pool().flush();
  begun.wait();
  Job& not_flushed = submit([] { ADD_FAILURE() << "cancelled work ran"; });
  EXPECT_TRUE(pool().cancel(not_flushed.op));
  EXPECT_FALSE(pool().cancel(running.op));
  go_on.count_down();
  wait_until(1);
  EXPECT_EQ(done_[0], &running.op);
  EXPECT_TRUE(pool().idle());
}

class Writes {
 public:
  Writes(std::size_t count, Handle file) {
    for (std::size_t i = 0; i < count; ++i) {
      IoOp& op = ops_.emplace_back(IoOp::Kind::write, file);
      op.buffers = MutableBytes(std::as_writable_bytes(std::span(data_)));
      op.offset = i * data_.size();
    }
  }
  std::deque<IoOp>& ops() { return ops_; }

 private:
  std::array<char, 4096> data_{};
  std::deque<IoOp> ops_;
};

TEST_F(WorkerPoolTest, WritesThatTakeTurnsAllGetOne) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> a(std::tmpfile(), &std::fclose), b(std::tmpfile(), &std::fclose);
  ASSERT_TRUE(a && b);
  Writes to_a(300, static_cast<Handle>(::fileno(a.get()))), to_b(300, static_cast<Handle>(::fileno(b.get())));
  std::atomic<int> runs = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    pool().submit(to_a.ops()[i], true);
    pool().submit(to_b.ops()[i], i % 2 == 0);
    submit([&] { ++runs; });
    if (i % 7 == 0) pool().flush();
  }
  std::size_t cancelled = 0;
  for (std::size_t i = 290; i < 300; ++i) cancelled += pool().cancel(to_a.ops()[i]);
  wait_until(900 - cancelled);
  EXPECT_EQ(runs, 300);
  EXPECT_TRUE(pool().idle());
  for (const IoOp* op : done_) EXPECT_EQ(op->result, op->kind == IoOp::Kind::write ? 4096 : 0);
  std::sort(done_.begin(), done_.end());
  EXPECT_EQ(std::unique(done_.begin(), done_.end()), done_.end());
}

TEST_F(WorkerPoolTest, WorkLeavesThreadsForIo) {
  const unsigned processors = std::max(1u, std::thread::hardware_concurrency());
  if (processors >= 8) pool_ = std::make_unique<WorkerPool>(wakeup_, processors + 2);
  std::atomic<unsigned> at_once = 0, most = 0;
  std::latch io_done(1);
  for (unsigned i = 0; i < 2 * processors + 8; ++i)
    submit([&] {
      const unsigned now = ++at_once;
      for (unsigned seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {}
      io_done.wait();
      --at_once;
    });
  IoOp io(IoOp::Kind::close);                    // of no descriptor: ends at once, with EBADF
  pool().submit(io);
  wait_until(1);
  EXPECT_EQ(done_[0], &io);
  EXPECT_EQ(io.result, -EBADF);
  io_done.count_down();
  wait_until(1 + jobs_.size());
  EXPECT_LE(most, processors);
}

TEST(WakeupTest, IsNotifiedAwakeOrAsleep) {
  Wakeup wakeup(*Wakeup::open());
  const auto readable = [&] {
    pollfd p = {wakeup.fd(), POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
  };
  wakeup.notify();
  EXPECT_FALSE(readable());                      // a flag is enough for one who is awake
  EXPECT_FALSE(wakeup.begin_sleep());
  wakeup.end_sleep();
  EXPECT_TRUE(wakeup.begin_sleep());
  wakeup.notify();
  wakeup.notify();
  EXPECT_TRUE(readable());
  wakeup.drain();
  EXPECT_FALSE(readable());
  wakeup.end_sleep();
}

TEST_F(WorkerPoolTest, FewerRunAtATimeOnceToldSo) {
  std::atomic<int> running = 0, most = 0;
  const auto work = [&] {
    const int now = ++running;
    for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {}
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    --running;
  };
  std::latch both(2);
  const bool two = std::thread::hardware_concurrency() > 1;
  for (int i = 0; i < 2 && two; ++i) submit([&] { both.arrive_and_wait(); });
  wait_until(two ? 2 : 0);
  const std::size_t before = two ? 2 : 0;
  pool().set_workers_max(1);
  for (int i = 0; i < 20; ++i) submit(work);
  wait_until(before + 20);
  EXPECT_EQ(most, 1);
  // What waits begins when more may run.
  std::latch together(2);
  for (int i = 0; i < 2 && two; ++i) submit([&] { together.arrive_and_wait(); });
  pool().flush();
  pool().set_workers_max(8);
  wait_until(before + 20 + before);
}

}  // namespace
}  // namespace tidemark::posix
