// QEMU and we keep each other out of an image, in both directions and both roles.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "io/threads/threads_backend.hpp"
#include "storage/file.hpp"

namespace tidemark {
namespace {

struct Ran {
  int status;
  std::string output;
};

Ran shell(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[256];
  while (std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) output.append(buffer, n);
  return {::pclose(pipe), output};
}

// A qemu-io that has the image open until it goes.
class QemuHolds {
 public:
  explicit QemuHolds(const std::string& arguments) {
    int to[2], from[2];
    TM_ASSERT(::pipe(to) == 0 && ::pipe(from) == 0);
    child_ = ::fork();
    if (child_ == 0) {
      ::dup2(to[0], 0);
      ::dup2(from[1], 1);
      for (const int fd : {to[0], to[1], from[0], from[1]}) ::close(fd);
      const std::string command = "exec qemu-io " + arguments;
      ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    input_ = to[1];
    output_ = from[0];
    await_open();
  }
  QemuHolds(const QemuHolds&) = delete;
  ~QemuHolds() {
    ::close(input_);  // it quits at the end of its input
    ::close(output_);
    ::waitpid(child_, nullptr, 0);
  }

 private:
  void await_open() const {  // what it answers, it answers with the image open
    const std::string_view command = "length\n";
    ASSERT_EQ(::write(input_, command.data(), command.size()), std::ssize(command));
    std::string answer;
    char c;
    while (answer.find("MiB") == std::string::npos) {
      ASSERT_EQ(::read(output_, &c, 1), 1) << "qemu-io ended: " << answer;
      answer += c;
    }
  }
  pid_t child_;
  int input_, output_;
};

class QemuLockTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(shell("command -v qemu-io").status, 0) << "qemu-io is not installed";
    const char* directory = std::getenv("TMPDIR");
    path_ = std::string(directory ? directory : "/tmp") + "/tidemark-lock-XXXXXX";
    const int fd = ::mkstemp(path_.data());
    ASSERT_GE(fd, 0);
    ASSERT_EQ(::ftruncate(fd, 4 * MiB), 0);
    ::close(fd);
  }
  void TearDown() override { ::unlink(path_.c_str()); }

  Result<std::unique_ptr<BlockDriver>> open(bool read_only, bool force_share = false) {
    FileOptions options;
    options.filename = path_;
    options.read_only = read_only;
    options.force_share = force_share;
    return reactor_.run(open_file(reactor_, std::move(options)));
  }
  void close(BlockDriver& driver) { EXPECT_TRUE(reactor_.run(driver.close()).ok()); }
  Ran qemu_io(const std::string& arguments) { return shell("qemu-io " + arguments + " " + path_); }
  static void expect_refused(const Ran& ran) {
    EXPECT_NE(ran.status, 0);
    EXPECT_NE(ran.output.find("lock"), std::string::npos) << ran.output;
  }

  std::string path_;
  std::unique_ptr<IoBackend> io_ = *make_threads_backend(2);
  Reactor reactor_{*io_};
};

TEST_F(QemuLockTest, QemuSeesOurWriter) {
  const auto writer = open(false);
  ASSERT_TRUE(writer.ok());
  expect_refused(qemu_io("-f raw -c 'read 0 512'"));
  EXPECT_EQ(qemu_io("-f raw -r -c 'read 0 512'").status, 0);
  close(**writer);
  EXPECT_EQ(qemu_io("-f raw -c 'read 0 512'").status, 0);
}

TEST_F(QemuLockTest, QemuSeesOurReader) {
  const auto reader = open(true);
  ASSERT_TRUE(reader.ok());
  expect_refused(qemu_io("-f raw -c 'read 0 512'"));
  EXPECT_EQ(qemu_io("-f raw -r -c 'read 0 512'").status, 0);
  close(**reader);
}

TEST_F(QemuLockTest, WeSeeQemusWriter) {
  ASSERT_EQ(shell("qemu-img create -q -f qcow2 " + path_ + " 4M").status, 0);
  {
    const QemuHolds qemu("-f qcow2 " + path_);
    const auto writer = open(false);
    ASSERT_FALSE(writer.ok());
    EXPECT_NE(writer.error().message().find("Failed to get \"write\" lock"), std::string::npos);
    EXPECT_EQ(open(true).error().code(), Errc::busy);
    const auto forced = open(true, true);
    ASSERT_TRUE(forced.ok());
    close(**forced);
  }
  const auto writer = open(false);
  ASSERT_TRUE(writer.ok()) << writer.error().message();
  close(**writer);
}

TEST_F(QemuLockTest, ReadersOfBothSidesShare) {
  ASSERT_EQ(shell("qemu-img create -q -f qcow2 " + path_ + " 4M").status, 0);
  const QemuHolds qemu("-r -f qcow2 " + path_);
  EXPECT_EQ(open(false).error().code(), Errc::busy);
  const auto reader = open(true);
  ASSERT_TRUE(reader.ok()) << reader.error().message();
  close(**reader);
}

TEST_F(QemuLockTest, AWriterThatOnlyReadsFromNowOnLetsReadersIn) {
  ASSERT_EQ(shell("qemu-img create -q -f qcow2 " + path_ + " 4M").status, 0);
  const auto driver = open(false);
  ASSERT_TRUE(driver.ok());
  expect_refused(qemu_io("-r -f qcow2 -c 'read 0 512'"));
  ASSERT_TRUE(reactor_.run((*driver)->set_read_only(true)).ok());
  EXPECT_EQ(qemu_io("-r -f qcow2 -c 'read 0 512'").status, 0);
  expect_refused(qemu_io("-f qcow2 -c 'read 0 512'"));
  ASSERT_TRUE(reactor_.run((*driver)->set_read_only(false)).ok());
  expect_refused(qemu_io("-r -f qcow2 -c 'read 0 512'"));
  close(**driver);
  EXPECT_EQ(qemu_io("-f qcow2 -c 'read 0 512'").status, 0);
}

TEST_F(QemuLockTest, AReaderBesideOthersCannotBeginToWrite) {
  ASSERT_EQ(shell("qemu-img create -q -f qcow2 " + path_ + " 4M").status, 0);
  const auto driver = open(true);
  ASSERT_TRUE(driver.ok());
  {
    const QemuHolds qemu("-r -f qcow2 " + path_);
    const Result<> refused = reactor_.run((*driver)->set_read_only(false));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code(), Errc::busy);
  }
  expect_refused(qemu_io("-f qcow2 -c 'read 0 512'"));          // its own lock is still there
  ASSERT_TRUE(reactor_.run((*driver)->set_read_only(false)).ok());
  close(**driver);
}

TEST_F(QemuLockTest, AnotherFileOfTheNameIsNotTaken) {
  const auto driver = open(false);
  ASSERT_TRUE(driver.ok());
  ASSERT_EQ(shell("mv " + path_ + " " + path_ + ".moved && cp " + path_ + ".moved " + path_).status, 0);
  const Result<> refused = reactor_.run((*driver)->set_read_only(true));
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message().find("another file has its name by now"), std::string::npos);
  ASSERT_EQ(shell("mv " + path_ + ".moved " + path_).status, 0);
  ASSERT_TRUE(reactor_.run((*driver)->set_read_only(true)).ok());
  close(**driver);
}

}  // namespace
}  // namespace tidemark
