#include "task/group.hpp"

#include <memory>

#include "task/testing.hpp"

namespace tidemark {
namespace {

class GroupTest : public testing::Test {
 protected:
  ManualExecutor executor;
  int ended = 0;

  Task<> wait(Event& event, CancelToken token) {
    co_await event.wait(token);
    ++ended;
  }
  Task<> fail_after(Event& event, Errc code) {
    co_await event.wait();
    co_await Error(code, "a child");
  }
};

TEST_F(GroupTest, JoinsWhatItStarted) {
  Event event(executor);
  auto body = [&](TaskGroup& group) -> Task<int> {
    for (int i = 0; i < 10; ++i) group.spawn(wait(event, group.token()));
    EXPECT_EQ(group.running(), 10u);
    co_await group.join();
    co_return ended;
  };
  const Started<int> task(with_group(executor, body));
  EXPECT_FALSE(task.done());
  event.set();
  executor.run();
  ASSERT_TRUE(task.succeeded());
  EXPECT_EQ(*task.outcome(), 10);
}

TEST_F(GroupTest, TheFirstErrorCancelsTheOthersAndIsTheOutcome) {
  Event never(executor), now(executor);
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(wait(never, group.token()));
    group.spawn(fail_after(now, Errc::no_space));
    group.spawn(wait(never, group.token()));
    co_await group.join();
  };
  const Started<> task(with_group(executor, body));
  now.set();
  executor.run();
  EXPECT_TRUE(task.failed_with(Errc::no_space));
  EXPECT_EQ(ended, 0);
}

TEST_F(GroupTest, ABodyThatDoesNotJoinCancels) {
  Event never(executor);
  auto body = [&](TaskGroup& group) -> Task<int> {
    group.spawn(wait(never, group.token()));
    co_return 5;
  };
  const Started<int> task(with_group(executor, body));
  executor.run();
  ASSERT_TRUE(task.succeeded());
  EXPECT_EQ(*task.outcome(), 5);
}

TEST_F(GroupTest, ABodyThatFailsCancelsAndItsErrorWins) {
  Event never(executor), now(executor);
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(wait(never, group.token()));
    co_await now.wait();
    co_await Error(Errc::busy, "the body");
  };
  const Started<> task(with_group(executor, body));
  now.set();
  executor.run();
  EXPECT_TRUE(task.failed_with(Errc::busy));
}

TEST_F(GroupTest, WaitsForChildrenThatIgnoreTheCancellation) {
  Event late(executor);
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(wait(late, CancelToken()));
    co_await Error(Errc::busy, "the body");
  };
  const Started<> task(with_group(executor, body));
  executor.run();
  EXPECT_FALSE(task.done());
  late.set();
  executor.run();
  EXPECT_TRUE(task.failed_with(Errc::busy));
  EXPECT_EQ(ended, 1);
}

TEST_F(GroupTest, AChildMaySpawnAnother) {
  Event event(executor);
  auto body = [&](TaskGroup& group) -> Task<> {
    auto nest = [&](auto& self, int depth) -> Task<> {
      co_await event.wait();
      ++ended;
      if (depth > 0) group.spawn(self(self, depth - 1));
    };
    group.spawn(nest(nest, 20));
    co_await group.join();
  };
  const Started<> task(with_group(executor, body));
  event.set();
  executor.run();
  EXPECT_TRUE(task.succeeded());
  EXPECT_EQ(ended, 21);
}

TEST_F(GroupTest, FramesOfEndedChildrenDoNotPileUp) {
  int alive = 0;
  struct Probe {
    explicit Probe(int& count) : alive(count) { ++alive; }
    ~Probe() { --alive; }
    int& alive;
  };
  int most = 0;
  auto child = [&]() -> Task<> {
    const Probe probe(alive);
    most = std::max(most, alive);
    co_return;
  };
  auto body = [&](TaskGroup& group) -> Task<> {
    for (int i = 0; i < 1000; ++i) group.spawn(child());
    co_await group.join();
  };
  const Started<> task(with_group(executor, body));
  EXPECT_TRUE(task.succeeded());
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(most, 1);
}

TEST_F(GroupTest, AnErrorBeforeTheJoinIsNotLost) {
  auto fail = []() -> Task<> { co_await Error(Errc::io, "at once"); };
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(fail());
    EXPECT_TRUE(group.token().requested());
    co_return;
  };
  const Started<> task(with_group(executor, body));
  EXPECT_TRUE(task.failed_with(Errc::io));
}

}  // namespace
}  // namespace tidemark
