#include "io/posix/busy_wait.hpp"

#include <gtest/gtest.h>

namespace tidemark::posix {
namespace {

using namespace std::chrono_literals;

bool looks(const BusyWait& wait) { return wait.window() != Duration::zero(); }

TEST(BusyWait, SleepsUntilEventsAreNear) {
  BusyWait wait(200us);
  EXPECT_FALSE(looks(wait));
  wait.slept(1ms, false);
  EXPECT_FALSE(looks(wait));
  wait.slept(50us, false);
  EXPECT_EQ(wait.window(), 200us);
  wait.found();
  EXPECT_EQ(wait.window(), 200us);
}

TEST(BusyWait, NeverLooksWhenItMayNot) {
  BusyWait wait(0us);
  for (int i = 0; i < 3; ++i) {
    wait.slept(1us, false);
    EXPECT_FALSE(looks(wait));
  }
}

// As when the peer shares the processor: an event comes as soon as this thread sleeps, never before.
TEST(BusyWait, LooksRarelyWhereLookingIsInVain) {
  BusyWait wait(200us);
  int looked = 0;
  for (int i = 0; i < 20000; ++i) {
    const bool look = looks(wait);
    looked += look;
    wait.slept(5us, look);
  }
  EXPECT_LE(looked, 20);
  EXPECT_GE(looked, 10);
}

TEST(BusyWait, ComesBackWhenLookingPaysAgain) {
  BusyWait wait(200us);
  for (int i = 0; i < 20000; ++i) wait.slept(5us, looks(wait));
  int slept = 0;
  for (int i = 0; i < 20000; ++i) {
    if (looks(wait)) {
      wait.found();
    } else {
      wait.slept(5us, false);
      ++slept;
    }
  }
  EXPECT_LE(slept, 4096);
}

}  // namespace
}  // namespace tidemark::posix
