// Coroutines that go from thread to thread.
#include "io/visit.hpp"

#include <gtest/gtest.h>

#include <thread>

#include "io/reactor_thread.hpp"
#include "io/threads/threads_backend.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<ReactorThread> start_thread(std::string name) {
  return *ReactorThread::start(*make_threads_backend(2), std::move(name));
}

class VisitTest : public testing::Test {
 protected:
  std::unique_ptr<IoBackend> io = *make_threads_backend(2);
  Reactor here{*io};
  std::unique_ptr<ReactorThread> a = start_thread("a"), b = start_thread("b");

  static Task<std::thread::id> where() { co_return std::this_thread::get_id(); }
  static Task<int> fail() { co_return co_await unwrap(Result<int>(Error(Errc::no_space, "there"))); }
};

TEST_F(VisitTest, WorkRunsThereAndItsMakerGoesOnHere) {
  const auto body = [&]() -> Task<> {
    const auto own = std::this_thread::get_id();
    const auto on_a = co_await visit(here, a->reactor(), where());
    EXPECT_EQ(std::this_thread::get_id(), own);
    const auto on_b = co_await visit(here, b->reactor(), where());
    EXPECT_NE(on_a, own);
    EXPECT_NE(on_b, own);
    EXPECT_NE(on_a, on_b);
    EXPECT_EQ(co_await visit(here, here, where()), own);
  };
  EXPECT_TRUE(here.run(body()).ok());
}

TEST_F(VisitTest, ErrorsComeBackToo) {
  const auto body = [&]() -> Task<> {
    const auto own = std::this_thread::get_id();
    const Result<int> failed = co_await visit(here, a->reactor(), fail()).result();
    EXPECT_EQ(std::this_thread::get_id(), own);
    EXPECT_TRUE(!failed && failed.error().code() == Errc::no_space);
  };
  EXPECT_TRUE(here.run(body()).ok());
}

// What a coroutine's parents look at after it has gone is theirs by then: many go to and fro while what
// awaits them is itself awaited, and each adds to its thread's own number.
TEST_F(VisitTest, ManyTravellersShareAThreadWithoutLocks) {
  std::uint64_t at_a = 0, at_b = 0;
  const auto add = [](std::uint64_t& number) -> Task<> {
    ++number;
    co_return;
  };
  const auto number_of = [&](Reactor& there) -> std::uint64_t& { return &there == &a->reactor() ? at_a : at_b; };
  const auto travel = [&](Reactor& first, Reactor& second) -> Task<> {
    for (int i = 0; i < 50; ++i) {
      co_await visit(here, first, add(number_of(first)));
      co_await visit(here, second, add(number_of(second)));
    }
  };
  const auto body = [&](TaskGroup& group) -> Task<> {
    for (int i = 0; i < 20; ++i) {
      group.spawn(travel(a->reactor(), b->reactor()));
      group.spawn(travel(b->reactor(), a->reactor()));
    }
    co_await group.join();
  };
  EXPECT_TRUE(here.run(with_group(here, body)).ok());
  EXPECT_EQ(at_a, 2000u);
  EXPECT_EQ(at_b, 2000u);
}

TEST_F(VisitTest, WaitsAndTimersAreThoseOfTheThread) {
  const auto nap = [](Reactor& reactor) -> Task<> { co_await reactor.sleep(2ms); };
  const auto body = [&]() -> Task<> {
    const Instant begin = here.now();
    co_await visit(here, a->reactor(), nap(a->reactor()));
    EXPECT_GE(here.now() - begin, Duration(2ms));
  };
  EXPECT_TRUE(here.run(body()).ok());
}

TEST_F(VisitTest, AThreadEndsWithItsObject) {
  for (int i = 0; i < 20; ++i) {
    auto thread = start_thread("short");
    const auto body = [&]() -> Task<> { co_await visit(here, thread->reactor(), where()); };
    EXPECT_TRUE(here.run(body()).ok());
  }
}

}  // namespace
}  // namespace tidemark
