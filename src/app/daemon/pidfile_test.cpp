// The pid file: one holder at a time, however they come and go.
#include "app/daemon/pidfile.hpp"

#include <gtest/gtest.h>

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

namespace tidemark {
namespace {

class PidfileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "tidemark-pidfile-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    top_ = pattern;
    path_ = top_ + "/pid";
  }
  void TearDown() override { std::filesystem::remove_all(top_); }

  std::string top_, path_;
};

TEST_F(PidfileTest, HasOneHolderAndGoesWithIt) {
  {
    auto held = Pidfile::create(path_);
    ASSERT_TRUE(held.ok());
    const auto second = Pidfile::create(path_);
    ASSERT_FALSE(second.ok());
    EXPECT_EQ(second.error().code(), Errc::busy);
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(PidfileTest, AnothersFileOfThatNameStays) {
  {
    const auto held = Pidfile::create(path_);
    std::filesystem::rename(path_, path_ + ".old");
    std::ofstream(path_) << "another's";
  }
  EXPECT_TRUE(std::filesystem::exists(path_));
}

// Who opened the file just before its holder removed it has locked one that has no name.
TEST_F(PidfileTest, HasItsNameHoweverItsHoldersComeAndGo) {
  constexpr int processes = 8, rounds = 300;
  const auto come_and_go = [&] {
    for (int held = 0; held < rounds;) {
      const auto file = Pidfile::create(path_);
      if (file && !std::filesystem::exists(path_)) return EXIT_FAILURE;
      if (file) ++held;
      else ::sched_yield();
    }
    return EXIT_SUCCESS;
  };
  std::vector<pid_t> running;
  for (int i = 0; i < processes; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(come_and_go());
    running.push_back(child);
  }
  for (const pid_t child : running) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS) << status;
  }
}

}  // namespace
}  // namespace tidemark
