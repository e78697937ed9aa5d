// What a reactor's thread asks of the system, beside what others have asked for it.
#include "io/reactor_thread.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace tidemark {
namespace {

TEST(WakePromptly, LeavesNicenessAndPolicyAsTheyAre) {
  std::thread([] {
    const auto self = static_cast<id_t>(::gettid());
    ASSERT_EQ(::setpriority(PRIO_PROCESS, self, 3), 0);
    wake_promptly();
    EXPECT_EQ(::getpriority(PRIO_PROCESS, self), 3);
    const sched_param none{};
    ASSERT_EQ(::sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none), 0);
    wake_promptly();
    EXPECT_EQ(::sched_getscheduler(0) & ~SCHED_RESET_ON_FORK, SCHED_BATCH);
  }).join();
}

}  // namespace
}  // namespace tidemark
