#include "io/posix/inline_io.hpp"

#include <sys/socket.h>

#include "io/aligned.hpp"
#include "io/posix/testing.hpp"

namespace tidemark::posix {
namespace {

class InlineIoTest : public testing::Test {
 protected:
  void open(const std::string& path, bool direct = false) {
    Op open(IoOp::Kind::open);
    open.extra.path = path;
    open.extra.open.write = open.extra.open.create = true;
    open.extra.open.direct = direct;
    open.run();
    handle_ = static_cast<Handle>(open.op.result);
    inline_io.completed(open.op);
  }
  ~InlineIoTest() override {
    if (descriptor(handle_) < 0) return;
    Op close(IoOp::Kind::close, handle_);
    close.run();
    inline_io.completed(close.op);
    EXPECT_FALSE(inline_io.is_file(handle_));
  }
  bool try_transfer(IoOp::Kind kind, std::uint64_t offset, std::size_t size, bool durable = false) {
    IoOp op(kind, handle_);
    op.offset = offset;
    op.durable = durable;
    op.buffers = Buffers(buffer_.bytes()).first(size);
    const bool done = inline_io.try_now(op);
    result_ = op.result;
    return done;
  }

  const TemporaryDirectory directory_;
  AlignedBuffer buffer_{4 * MiB};
  InlineIo inline_io;
  Handle handle_ = Handle::none;
  std::int64_t result_ = 0;
};

TEST_F(InlineIoTest, WritesAndReadsThePageCache) {
  open(directory_ / "file");
  EXPECT_TRUE(inline_io.is_file(handle_));
  const bool learning = try_transfer(IoOp::Kind::write, 4096, 4096);   // NOWAIT may be refused
  EXPECT_TRUE(learning || try_transfer(IoOp::Kind::write, 4096, 4096));
  EXPECT_EQ(result_, 4096);
  EXPECT_TRUE(try_transfer(IoOp::Kind::read, 4096, 8192));
  EXPECT_EQ(result_, 4096);
}

TEST_F(InlineIoTest, LeavesItToOthersToFindTheEnd) {
  open(directory_ / "file");
  EXPECT_FALSE(try_transfer(IoOp::Kind::read, 0, 4096));
  const bool learning = try_transfer(IoOp::Kind::write, 0, 4096);
  EXPECT_TRUE(learning || try_transfer(IoOp::Kind::write, 0, 4096));
  EXPECT_TRUE(try_transfer(IoOp::Kind::read, 0, 4096));
  EXPECT_FALSE(try_transfer(IoOp::Kind::read, 4096, 4096));
}

TEST_F(InlineIoTest, LeavesWhatMayWait) {
  open(directory_ / "file");
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(try_transfer(IoOp::Kind::write, 0, 4096, true));       // durable
    EXPECT_FALSE(try_transfer(IoOp::Kind::sync, 0, 0));
  }
  EXPECT_FALSE(inline_io.is_buffered(Handle::none));
}

TEST_F(InlineIoTest, DirectFilesAlwaysWait) {
  open(directory_ / "file", true);
  if (descriptor(handle_) < 0) GTEST_SKIP() << "no direct I/O on this file system";
  EXPECT_FALSE(try_transfer(IoOp::Kind::write, 0, 4096));
  EXPECT_FALSE(try_transfer(IoOp::Kind::read, 0, 4096));
}

TEST_F(InlineIoTest, FilesInMemoryNeverWaitAndMuchDataGoesToThreads) {
  if (::access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  const std::string path = "/dev/shm/tidemark-inline-" + std::to_string(::getpid());
  open(path);
  ::unlink(path.c_str());
  EXPECT_TRUE(try_transfer(IoOp::Kind::write, 100, 64 * KiB));
  EXPECT_EQ(result_, std::int64_t{64 * KiB});
  EXPECT_FALSE(try_transfer(IoOp::Kind::write, 100, 4 * MiB));
  EXPECT_TRUE(try_transfer(IoOp::Kind::read, 0, 50));
  EXPECT_EQ(result_, 50);
  EXPECT_TRUE(try_transfer(IoOp::Kind::sync, 0, 0));
  EXPECT_EQ(result_, 0);
}

TEST_F(InlineIoTest, SocketsWithoutBytesWait) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  handle_ = static_cast<Handle>(ends[0]);
  IoOp recv(IoOp::Kind::recv, handle_);
  recv.buffers = buffer_.bytes();
  EXPECT_FALSE(inline_io.try_now(recv));
  EXPECT_EQ(recv.backend_data[0], would_wait);
  ASSERT_EQ(::write(ends[1], "abc", 3), 3);
  EXPECT_TRUE(inline_io.try_now(recv));
  EXPECT_EQ(recv.result, 3);
  ::close(ends[1]);
  EXPECT_TRUE(inline_io.try_now(recv));
  EXPECT_EQ(recv.result, 0);
  EXPECT_TRUE(try_transfer(IoOp::Kind::send, 0, 10));
  EXPECT_EQ(result_, -EPIPE);                    // and no SIGPIPE
}

}  // namespace
}  // namespace tidemark::posix
