// What is said by itself waits for no reader, and is not lost silently.
#include "app/daemon/notices.hpp"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <utility>

namespace tidemark {
namespace {

class NoticesTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pipe2(ends_.data(), O_CLOEXEC), 0);
    ASSERT_GT(::fcntl(ends_[1], F_SETPIPE_SZ, 8192), 0);
  }
  void TearDown() override {
    for (const int end : ends_) ::close(end);
  }
  std::string read_some() const {
    std::string text(65536, '\0');
    const ssize_t n = ::read(ends_[0], text.data(), text.size());
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }

  std::array<int, 2> ends_{-1, -1};
};

TEST_F(NoticesTest, ALineIsALine) {
  Notices notices(ends_[1]);
  notices.tell("one");
  notices.tell("two");
  EXPECT_EQ(read_some(), "one\ntwo\n");
}

TEST_F(NoticesTest, AFullPipeIsNotWaitedFor) {
  Notices notices(ends_[1]);
  const std::string page = std::string(4095, 'x');
  for (int i = 0; i < 2; ++i) notices.tell(page);
  for (int i = 0; i < 3; ++i) notices.tell("lost");
  EXPECT_EQ(read_some(), page + "\n" + page + "\n");
  notices.tell("one");
  EXPECT_EQ(read_some(), "tidemarkd: lines that could not be written here before this one: 3\n" "one\n");
}

TEST_F(NoticesTest, ALineThatIsTooLongIsCut) {
  Notices notices(ends_[1]);
  notices.tell(std::string(100000, 'x'));
  EXPECT_EQ(read_some(), std::string(4095, 'x') + "\n");
}

TEST_F(NoticesTest, WhereNothingCanBeWrittenNothingIs) {
  ::signal(SIGPIPE, SIG_IGN);
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  ASSERT_GE(full, 0);
  Notices nowhere(full);
  nowhere.tell("lost");
  ::close(full);
  ::close(std::exchange(ends_[0], -1));
  Notices notices(ends_[1]);
  notices.tell("lost");
}

}  // namespace
}  // namespace tidemark
