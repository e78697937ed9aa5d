#include "task/task.hpp"

#include <string>

#include "task/finally.hpp"
#include "task/sync.hpp"
#include "task/testing.hpp"

namespace tidemark {
namespace {

struct Probe {                                   // counts its living copies
  explicit Probe(int& count) : alive(&count) { ++*alive; }
  Probe(const Probe& o) : alive(o.alive) { ++*alive; }
  ~Probe() { --*alive; }
  int* alive;
};

class TaskTest : public testing::Test {
 protected:
  ManualExecutor executor;
  int alive = 0;
};

Task<int> give(int value) { co_return value; }
Task<int> fail_with(Errc code) { co_return Error(code, "it failed"); }
Task<> wait_for(Event& event) { co_await event.wait(); }

TEST_F(TaskTest, IsLazy) {
  bool ran = false;
  auto body = [&]() -> Task<> {
    ran = true;
    co_return;
  };
  {
    const Task<> never = body();
    EXPECT_FALSE(ran);
  }
  EXPECT_FALSE(ran);
  const Started<> task(body());
  EXPECT_TRUE(ran);
  EXPECT_TRUE(task.succeeded());
}

TEST_F(TaskTest, PassesValuesUp) {
  auto sum = [](int n) -> Task<int> {
    int total = 0;
    for (int i = 1; i <= n; ++i) total += co_await give(i);
    co_return total;
  };
  const Started<int> task(sum(100));
  EXPECT_EQ(*task.outcome(), 5050);
}

TEST_F(TaskTest, AMillionTasksThatDoNotSuspendNeedNoStack) {
  auto loop = []() -> Task<std::uint64_t> {
    std::uint64_t total = 0;
    for (int i = 0; i < 1'000'000; ++i) total += static_cast<std::uint64_t>(co_await give(1));
    co_return total;
  };
  const Started<std::uint64_t> task(loop());
  EXPECT_EQ(*task.outcome(), 1'000'000u);
}

TEST_F(TaskTest, AChildsErrorEndsTheParent) {
  bool reached = false;
  auto parent = [&]() -> Task<int> {
    const Probe probe(alive);
    const int value = co_await fail_with(Errc::no_space);
    reached = true;
    co_return value;
  };
  {
    const Started<int> task(parent());
    EXPECT_TRUE(task.failed_with(Errc::no_space));
    EXPECT_FALSE(reached);
  }
  EXPECT_EQ(alive, 0);                           // its locals went with its frame
}

TEST_F(TaskTest, AnErrorEndsAWholeChainAfterASuspension) {
  Event event(executor);
  auto deep = [&](auto& self, int depth) -> Task<int> {
    const Probe probe(alive);
    if (depth == 0) {
      co_await event.wait();
      co_await Error(Errc::corrupt, "deep down");
    }
    co_return co_await self(self, depth - 1) + 1;
  };
  {
    const Started<int> task(deep(deep, 50));
    EXPECT_FALSE(task.done());
    EXPECT_EQ(alive, 51);
    event.set();
    executor.run();
    EXPECT_TRUE(task.failed_with(Errc::corrupt));
    EXPECT_EQ(task.outcome().error().message(), "deep down");
    EXPECT_EQ(alive, 1);                         // the children are gone already
  }
  EXPECT_EQ(alive, 0);
}

TEST_F(TaskTest, ResultLetsTheParentLook) {
  auto parent = []() -> Task<std::string> {
    const Result<int> outcome = co_await fail_with(Errc::busy).result();
    co_return outcome ? "fine" : outcome.error().message();
  };
  const Started<std::string> task(parent());
  EXPECT_EQ(*task.outcome(), "it failed");
}

TEST_F(TaskTest, UnwrapGivesTheValueOrEnds) {
  auto parent = [](Result<int> given) -> Task<int> { co_return co_await unwrap(given) * 2; };
  const Started<int> good(parent(21));
  EXPECT_EQ(*good.outcome(), 42);
  const Started<int> bad(parent(Error(Errc::io, "no")));
  EXPECT_TRUE(bad.failed_with(Errc::io));
}

TEST_F(TaskTest, ResumesTheParentAfterASuspension) {
  Event event(executor);
  auto parent = [&]() -> Task<int> {
    co_await wait_for(event);
    co_return co_await give(7);
  };
  const Started<int> task(parent());
  EXPECT_FALSE(task.done());
  event.set();
  EXPECT_FALSE(task.done());                     // through the ready queue, not inline
  executor.run();
  EXPECT_EQ(*task.outcome(), 7);
}

TEST_F(TaskTest, ATaskThatNeverRanFreesItsArguments) {
  auto body = [](Probe) -> Task<> { co_return; };
  { const Task<> never = body(Probe(alive)); }
  EXPECT_EQ(alive, 0);
}

TEST_F(TaskTest, DestroyingAWaitingTaskWithdrawsIt) {
  Event event(executor);
  auto body = [&]() -> Task<> {
    const Probe probe(alive);
    co_await wait_for(event);
  };
  { const Started<> task(body()); }
  EXPECT_EQ(alive, 0);
  event.set();
  EXPECT_EQ(executor.ready(), 0u);
}

TEST_F(TaskTest, FinallyCleansUpOnEveryPath) {
  int cleaned = 0;
  Event cleanup_may_end(executor);
  auto cleanup = [&]() -> Task<> {
    co_await cleanup_may_end.wait();
    ++cleaned;
  };
  const Started<int> good(finally(give(3), cleanup));
  const Started<int> bad(finally(fail_with(Errc::io), cleanup));
  EXPECT_FALSE(good.done());
  EXPECT_FALSE(bad.done());
  cleanup_may_end.set();
  executor.run();
  EXPECT_EQ(cleaned, 2);
  EXPECT_EQ(*good.outcome(), 3);
  EXPECT_TRUE(bad.failed_with(Errc::io));
}

TEST_F(TaskTest, FinallyPrefersTheBodysError) {
  auto bad_cleanup = []() -> Task<> { co_await Error(Errc::busy, "cleanup"); };
  const Started<int> both(finally(fail_with(Errc::io), bad_cleanup));
  EXPECT_TRUE(both.failed_with(Errc::io));
  const Started<int> cleanup_only(finally(give(1), bad_cleanup));
  EXPECT_TRUE(cleanup_only.failed_with(Errc::busy));
}

}  // namespace
}  // namespace tidemark
