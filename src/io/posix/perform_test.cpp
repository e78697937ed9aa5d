// What the contract cannot see: modes, devices, FIFOs, full queues, cancelled connects.
#include "io/posix/perform.hpp"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "io/aligned.hpp"
#include "io/posix/inline_io.hpp"
#include "io/posix/testing.hpp"

namespace tidemark::posix {
namespace {

OpenFlags writing() {
  OpenFlags flags;
  flags.write = flags.create = true;
  return flags;
}

TEST(Perform, AUnixSocketIsPrivateWhateverTheUmask) {
  const TemporaryDirectory directory;
  const mode_t before = ::umask(0);
  Op listen(IoOp::Kind::listen);
  listen.extra.address.path = directory / "socket";
  ASSERT_GE(listen.run(), 0);
  ::umask(before);
  struct stat st;
  ASSERT_EQ(::stat((directory / "socket").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777u, 0600u);
  ::close(static_cast<int>(listen.op.result));
}

TEST(Perform, FilesAndDirectoriesArePrivate) {
  const TemporaryDirectory directory;
  const mode_t before = ::umask(0);
  const OpenFile file(directory / "file", writing());
  Op mkdir(IoOp::Kind::mkdir);
  mkdir.extra.path = directory / "dir";
  EXPECT_EQ(mkdir.run(), 0);
  ::umask(before);
  struct stat st;
  ASSERT_EQ(::stat((directory / "file").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777u, 0600u);
  ASSERT_EQ(::stat((directory / "dir").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777u, 0700u);
}

// renameat2() with a flag fails in this thread from here on, as it does on file systems that have none.
bool refuse_flags_of_rename() {
  const sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[4])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), const_cast<sock_filter*>(program)};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST(Perform, RenamesThatReplaceNothingWhereNoFlagSaysSo) {
  const TemporaryDirectory directory;
  for (const char* name : {"from", "from/file", "empty", "full", "full/file"}) ASSERT_EQ(::mkdir((directory / name).c_str(), 0700), 0);
  for (const char* name : {"a", "b"}) const OpenFile file(directory / name, writing());
  const auto rename = [&](const char* from, const char* to) {
    Op op(IoOp::Kind::rename);
    op.extra.path = directory / from;
    op.extra.path2 = directory / to;
    op.op.no_replace = true;
    return op.run();
  };
  bool refused = false;
  std::thread without([&] {
    refused = refuse_flags_of_rename();
    if (!refused) return;
    EXPECT_EQ(::syscall(SYS_renameat2, AT_FDCWD, "none", AT_FDCWD, "to", RENAME_NOREPLACE), -1);
    EXPECT_EQ(errno, EINVAL);
    for (const char* there : {"empty", "full", "a"}) EXPECT_EQ(rename("from", there), -EEXIST) << there;
    EXPECT_EQ(rename("from", "a/below"), -ENOTDIR);
    EXPECT_EQ(rename("from", "to"), 0);
    EXPECT_EQ(rename("from", "to"), -ENOENT);
    for (const char* there : {"b", "full"}) EXPECT_EQ(rename("a", there), -EEXIST) << there;
    EXPECT_EQ(rename("a", "c"), 0);
  });
  without.join();
  if (!refused) GTEST_SKIP() << "no seccomp here";
  struct stat st;
  for (const char* name : {"to/file", "empty", "full/file", "b", "c"}) EXPECT_EQ(::lstat((directory / name).c_str(), &st), 0) << name;
  for (const char* name : {"from", "a"}) EXPECT_NE(::lstat((directory / name).c_str(), &st), 0) << name;
}

TEST(Perform, DescriptorsAreClosedOnExec) {
  const TemporaryDirectory directory;
  const OpenFile file(directory / "file", writing());
  Op listen(IoOp::Kind::listen), connect(IoOp::Kind::connect);
  listen.extra.address.path = connect.extra.address.path = directory / "socket";
  ASSERT_GE(listen.run(), 0);
  ASSERT_GE(connect.run(), 0);
  Op accept(IoOp::Kind::accept, static_cast<Handle>(listen.op.result));
  ASSERT_GE(accept.run(), 0);
  for (const std::int64_t fd : {std::int64_t{descriptor(file.handle())}, listen.op.result,
                                connect.op.result, accept.op.result})
    EXPECT_TRUE(::fcntl(static_cast<int>(fd), F_GETFD) & FD_CLOEXEC);
  for (const std::int64_t fd : {listen.op.result, connect.op.result, accept.op.result})
    ::close(static_cast<int>(fd));
}

// Of what is on the device; a file system in memory keeps it where it is.
TEST(Perform, WhatIsWrittenBackLeavesThePageCacheWhereThatIsWanted) {
  const TemporaryDirectory directory;
  const OpenFile file(directory / "file", writing());
  const int fd = descriptor(file.handle());
  struct statfs system;
  ASSERT_EQ(::fstatfs(fd, &system), 0);
  if (system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC) GTEST_SKIP() << "the temporary directory is in memory";
  std::vector<char> page(4096, 'x');
  ASSERT_EQ(::pwrite(fd, page.data(), page.size(), 0), 4096);
  ASSERT_EQ(::fsync(fd), 0);
  const auto cached = [&] {
    void* mapped = ::mmap(nullptr, page.size(), PROT_READ, MAP_SHARED, fd, 0);
    unsigned char there = 0;
    EXPECT_EQ(::mincore(mapped, page.size(), &there), 0);
    ::munmap(mapped, page.size());
    return (there & 1) != 0;
  };
  Op keep(IoOp::Kind::write_back, file.handle()), drop(IoOp::Kind::write_back, file.handle());
  EXPECT_EQ(keep.run(), 0);
  EXPECT_TRUE(cached());
  drop.op.drop = true;
  EXPECT_EQ(drop.run(), 0);
  EXPECT_FALSE(cached());
}

TEST(Perform, OpeningAFifoWithoutAPeerDoesNotHang) {
  const TemporaryDirectory directory;
  ASSERT_EQ(::mkfifo((directory / "fifo").c_str(), 0600), 0);
  const OpenFile fifo(directory / "fifo", OpenFlags());
  ASSERT_TRUE(fifo.is_open());
  EXPECT_EQ(fifo.stat().type, FileInfo::Type::other);
  char byte;
  const Buffers one = std::as_writable_bytes(std::span(&byte, 1));
  EXPECT_EQ(fifo.transfer(IoOp::Kind::read, 0, one), -ESPIPE);
}

TEST(Perform, OffsetsBeyondTheKernelsAreRefused) {
  const TemporaryDirectory directory;
  const OpenFile file(directory / "file", writing());
  char byte = 'x';
  const Buffers one = std::as_writable_bytes(std::span(&byte, 1));
  EXPECT_EQ(file.transfer(IoOp::Kind::write, ~0ull, one), -EINVAL);
  EXPECT_EQ(file.transfer(IoOp::Kind::read, 1ull << 63, one), -EINVAL);
  EXPECT_EQ(file.allocate(AllocateMode::punch_hole, {~0ull - 10, 5}), -EINVAL);
  Op truncate(IoOp::Kind::truncate, file.handle());
  truncate.op.length = ~0ull;
  EXPECT_EQ(truncate.run(), -EINVAL);
}

TEST(Perform, AConnectThatWaitsIsGivenUp) {
  const TemporaryDirectory directory;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = directory / "socket";
  std::memcpy(address.sun_path, path.data(), path.size());
  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener, 0), 0);
  std::vector<int> fill;                         // until its queue is full
  do fill.push_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  while (::connect(fill.back(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);

  Op connect(IoOp::Kind::connect);
  connect.extra.address.path = directory / "socket";
  std::thread thread([&] { connect.run(); });
  request_cancel(connect.op);
  thread.join();
  EXPECT_EQ(connect.op.result, -ECANCELED);
  for (int fd : fill) ::close(fd);
  ::close(listener);
}

TEST(Perform, HostsAndPortsThatDoNotExistAreErrors) {
  Op connect(IoOp::Kind::connect);
  connect.extra.address.kind = SocketAddress::Kind::inet;
  connect.extra.address.host = "127.0.0.1";
  connect.extra.address.port = "no such port";
  EXPECT_EQ(connect.run(), -EINVAL);
  connect.extra.address.host = "not a host";
  connect.extra.address.port = "1";
  EXPECT_LT(connect.run(), 0);
}

TEST(Perform, AnyAddressIsEveryAddress) {
  Op listen(IoOp::Kind::listen);
  listen.extra.address.kind = SocketAddress::Kind::inet;
  listen.extra.address.port = "0";
  ASSERT_GE(listen.run(), 0);
  Op connect(IoOp::Kind::connect);
  connect.extra.address = listen.extra.address;
  connect.extra.address.host = "127.0.0.1";
  ASSERT_GE(connect.run(), 0);
  ::close(static_cast<int>(connect.op.result));
  ::close(static_cast<int>(listen.op.result));
}

class DeviceTest : public testing::TestWithParam<std::uint32_t> {
 protected:
  void SetUp() override {
    ASSERT_EQ(::truncate(file_.c_str(), static_cast<off_t>(size)), 0);
    device_ = std::make_unique<LoopDevice>(file_, GetParam());
    if (device_->path().empty()) GTEST_SKIP() << "no loop devices here (they need root)";
  }
  OpenFlags flags(bool direct) const {
    OpenFlags value;
    value.write = true;
    value.direct = direct;
    return value;
  }
  static constexpr std::uint64_t size = 4 * MiB;
  const TemporaryDirectory directory_;
  const std::string file_ = [&] {
    const OpenFile made(directory_ / "disk", writing());
    return directory_ / "disk";
  }();
  std::unique_ptr<LoopDevice> device_;
};
INSTANTIATE_TEST_SUITE_P(Sectors, DeviceTest, testing::Values(512u, 4096u));

TEST_P(DeviceTest, SaysItsSizeAndAlignment) {
  const OpenFile device(device_->path(), flags(true));
  ASSERT_TRUE(device.is_open());
  const FileInfo info = device.stat();
  EXPECT_EQ(info.type, FileInfo::Type::block_device);
  EXPECT_EQ(info.size, size);
  EXPECT_EQ(info.logical_block, GetParam());
  EXPECT_LE(info.memory_align, 4096u);
  EXPECT_FALSE(info.read_only);
  Op by_name(IoOp::Kind::stat);
  by_name.extra.path = device_->path();
  ASSERT_EQ(by_name.run(), 0);
  EXPECT_EQ(by_name.extra.info.size, size);
  EXPECT_EQ(by_name.extra.info.logical_block, GetParam());
}

TEST_P(DeviceTest, TransfersWholeSectorsDirectly) {
  const OpenFile device(device_->path(), flags(true));
  AlignedBuffer buffer(16 * KiB);
  const Buffers sectors = Buffers(buffer.bytes()).first(2 * GetParam());
  buffer.data()[0] = std::byte{'x'};
  EXPECT_EQ(device.transfer(IoOp::Kind::write, GetParam(), sectors), 2 * GetParam());
  buffer.data()[0] = std::byte{0};
  EXPECT_EQ(device.transfer(IoOp::Kind::read, GetParam(), sectors), 2 * GetParam());
  EXPECT_EQ(buffer.data()[0], std::byte{'x'});
  EXPECT_EQ(device.transfer(IoOp::Kind::read, 1, sectors), -EINVAL);
  EXPECT_EQ(device.transfer(IoOp::Kind::write, size, sectors), -ENOSPC);
  EXPECT_EQ(device.transfer(IoOp::Kind::read, size, sectors), 0);
}

TEST_P(DeviceTest, ZeroesAndPunches) {
  const OpenFile device(device_->path(), flags(false));
  for (const AllocateMode mode : {AllocateMode::punch_hole, AllocateMode::zero_range}) {
    AlignedBuffer buffer(MiB);
    std::memset(buffer.data(), 'x', MiB);
    ASSERT_EQ(device.transfer(IoOp::Kind::write, 0, buffer.bytes()), std::int64_t{MiB});
    ASSERT_EQ(device.allocate(mode, {64 * KiB, 128 * KiB}), 0);
    ASSERT_EQ(device.transfer(IoOp::Kind::read, 0, buffer.bytes()), std::int64_t{MiB});
    EXPECT_TRUE(Buffers(buffer.bytes()).slice(64 * KiB, 128 * KiB).all_zero());
    EXPECT_EQ(buffer.data()[64 * KiB - 1], std::byte{'x'});
    EXPECT_EQ(buffer.data()[192 * KiB], std::byte{'x'});
  }
  EXPECT_EQ(device.allocate(AllocateMode::preallocate, {0, MiB}), -EOPNOTSUPP);
}

TEST_P(DeviceTest, Discards) {
  const OpenFile device(device_->path(), flags(true));
  EXPECT_EQ(device.allocate(AllocateMode::discard, {64 * KiB, 128 * KiB}), 0);
  EXPECT_EQ(device.allocate(AllocateMode::discard, {100, 128 * KiB}), -EINVAL);
}

TEST_P(DeviceTest, IsAllData) {
  const OpenFile device(device_->path(), flags(false));
  Op extent(IoOp::Kind::extent, device.handle());
  extent.op.offset = MiB;
  ASSERT_EQ(extent.run(), 0);
  EXPECT_TRUE(extent.extra.extent.data);
  EXPECT_EQ(extent.extra.extent.length, 3 * MiB);
  extent.op.offset = size;
  ASSERT_EQ(extent.run(), 0);
  EXPECT_EQ(extent.extra.extent.length, 0u);
}

TEST_P(DeviceTest, WaitsForItsDevice) {
  // Its node is on a file system in memory; the device is not.
  const OpenFile cached(device_->path(), flags(false)), direct(device_->path(), flags(true));
  EXPECT_EQ(static_cast<InlineClass>(cached.inline_class), InlineClass::device);
  EXPECT_EQ(static_cast<InlineClass>(direct.inline_class), InlineClass::never);
}

}  // namespace
}  // namespace tidemark::posix
