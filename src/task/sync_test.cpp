#include "task/sync.hpp"

#include <memory>
#include <vector>

#include "task/testing.hpp"

namespace tidemark {
namespace {

class SyncTest : public testing::Test {
 protected:
  ManualExecutor executor;
  std::vector<int> order;

  Task<> lock_and_note(Mutex& mutex, Event& hold, int number) {
    const auto guard = co_await mutex.lock();
    order.push_back(number);
    co_await hold.wait();
  }
  Task<> acquire_and_note(Semaphore& semaphore, std::uint64_t units, int number,
                          CancelToken token = {}) {
    co_await semaphore.acquire(units, token);
    order.push_back(number);
  }
};

using Order = std::vector<int>;

TEST_F(SyncTest, AMutexIsHandedOverInOrder) {
  Mutex mutex(executor);
  Event hold(executor);
  const Started<> first(lock_and_note(mutex, hold, 1));
  const Started<> second(lock_and_note(mutex, hold, 2));
  const Started<> third(lock_and_note(mutex, hold, 3));
  EXPECT_EQ(order, Order{1});
  EXPECT_TRUE(mutex.locked());
  hold.set();
  executor.run();
  EXPECT_EQ(order, (Order{1, 2, 3}));
  EXPECT_FALSE(mutex.locked());
}

TEST_F(SyncTest, AMutexGuardUnlocksOnce) {
  Mutex mutex(executor);
  auto body = [&]() -> Task<> {
    auto guard = co_await mutex.lock();
    auto moved = std::move(guard);
    moved.unlock();
    EXPECT_FALSE(mutex.locked());
    moved = co_await mutex.lock();
    EXPECT_TRUE(mutex.locked());
  };
  const Started<> task(body());
  EXPECT_TRUE(task.succeeded());
  EXPECT_FALSE(mutex.locked());
}

TEST_F(SyncTest, DestroyingAWaiterPassesItsTurnOn) {
  Mutex mutex(executor);
  Event hold(executor);
  const Started<> first(lock_and_note(mutex, hold, 1));
  auto second = std::make_unique<Started<>>(lock_and_note(mutex, hold, 2));
  const Started<> third(lock_and_note(mutex, hold, 3));
  second.reset();
  hold.set();
  executor.run();
  EXPECT_EQ(order, (Order{1, 3}));
}

TEST_F(SyncTest, ASemaphoreDoesNotLetSmallRequestsOvertake) {
  Semaphore semaphore(executor, 10);
  EXPECT_TRUE(semaphore.try_acquire(8));
  const Started<> large(acquire_and_note(semaphore, 5, 1));
  const Started<> small(acquire_and_note(semaphore, 1, 2));
  EXPECT_FALSE(semaphore.try_acquire(1));
  semaphore.release(2);
  executor.run();
  EXPECT_EQ(order, Order{});
  semaphore.release(2);
  executor.run();
  EXPECT_EQ(order, (Order{1, 2}));
  EXPECT_EQ(semaphore.available(), 0u);
}

TEST_F(SyncTest, CancellingTheLargeRequestLetsTheSmallOnesIn) {
  Semaphore semaphore(executor, 4);
  CancelSource source;
  const Started<> large(acquire_and_note(semaphore, 9, 1, source.token()));
  const Started<> small(acquire_and_note(semaphore, 3, 2));
  executor.run();
  EXPECT_EQ(order, Order{});
  source.request();
  executor.run();
  EXPECT_TRUE(large.failed_with(Errc::cancelled));
  EXPECT_EQ(order, Order{2});
  EXPECT_EQ(semaphore.available(), 1u);
}

TEST_F(SyncTest, CancellationAfterTheGrantComesTooLate) {
  Semaphore semaphore(executor, 0);
  CancelSource source;
  const Started<> task(acquire_and_note(semaphore, 1, 1, source.token()));
  semaphore.release();                           // granted and posted, not yet run
  source.request();
  executor.run();
  EXPECT_TRUE(task.succeeded());
  EXPECT_EQ(semaphore.available(), 0u);
}

TEST_F(SyncTest, ACancelledTokenAcquiresNothing) {
  Semaphore semaphore(executor, 5);
  CancelSource source;
  source.request();
  const Started<> task(acquire_and_note(semaphore, 1, 1, source.token()));
  EXPECT_TRUE(task.failed_with(Errc::cancelled));
  EXPECT_EQ(semaphore.available(), 5u);
}

TEST_F(SyncTest, CancellingWakesEveryWaiterOnce) {
  Event event(executor);
  CancelSource source;
  const Started<> first(event.wait(source.token())), second(event.wait(source.token()));
  const Started<> other(event.wait());
  source.request();
  source.request();
  executor.run();
  EXPECT_TRUE(first.failed_with(Errc::cancelled));
  EXPECT_TRUE(second.failed_with(Errc::cancelled));
  EXPECT_FALSE(other.done());
  event.set();
  executor.run();
  EXPECT_TRUE(other.succeeded());
}

TEST_F(SyncTest, AnEventStaysSetUntilReset) {
  Event event(executor);
  const Started<> waiting(event.wait());
  event.notify_all();
  executor.run();
  EXPECT_TRUE(waiting.succeeded());
  const Started<> again(event.wait());
  EXPECT_FALSE(again.done());
  event.set();
  executor.run();
  EXPECT_TRUE(again.succeeded());
  const Started<> passes(event.wait());
  EXPECT_TRUE(passes.succeeded());
  event.reset();
  const Started<> waits(event.wait());
  EXPECT_FALSE(waits.done());
  event.set();
  executor.run();
}

TEST_F(SyncTest, AGateWaitsForAllInside) {
  Gate gate(executor);
  const Started<> empty(gate.wait_idle());
  EXPECT_TRUE(empty.succeeded());
  std::vector<Gate::Holder> inside;
  inside.push_back(gate.enter());
  inside.push_back(gate.enter());
  const Started<> waiting(gate.wait_idle());
  inside.pop_back();
  executor.run();
  EXPECT_FALSE(waiting.done());
  EXPECT_EQ(gate.count(), 1u);
  inside.pop_back();
  executor.run();
  EXPECT_TRUE(waiting.succeeded());
}

TEST_F(SyncTest, AGateThatIsEnteredAgainKeepsItsWaiters) {
  Gate gate(executor);
  std::vector<Gate::Holder> inside;
  inside.push_back(gate.enter());
  const Started<> waiting(gate.wait_idle());
  inside.clear();
  inside.push_back(gate.enter());                // before the waiter ran
  executor.run();
  EXPECT_FALSE(waiting.done());
  inside.clear();
  executor.run();
  EXPECT_TRUE(waiting.succeeded());
}

TEST_F(SyncTest, ATokenWithoutASourceIsNeverAsked) {
  const CancelToken token;
  EXPECT_FALSE(token.requested());
}

using SyncDeathTest = SyncTest;
TEST_F(SyncDeathTest, AWokenWaiterIsNotDestroyedBeforeItRuns) {
  EXPECT_DEATH(
      {
        Event event(executor);
        auto task = std::make_unique<Started<>>(event.wait());
        event.set();
        task.reset();
      },
      "assertion failed");
}

}  // namespace
}  // namespace tidemark
