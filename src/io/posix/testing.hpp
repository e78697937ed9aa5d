// What the tests of this folder share: a directory of their own, and a loop device over a file.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "io/posix/perform.hpp"

namespace tidemark::posix {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    path_ = (std::filesystem::temp_directory_path() / "tidemark-posix-XXXXXX").string();
    EXPECT_NE(::mkdtemp(path_.data()), nullptr);
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// An operation with its extra part.
struct Op {
  explicit Op(IoOp::Kind kind, Handle handle = Handle::none) : op(kind, handle) {
    op.extra = &extra;
  }
  std::int64_t run() { return op.result = perform_blocking(op); }
  IoOp::Extra extra;
  IoOp op;
};

class OpenFile {
 public:
  OpenFile(const std::string& path, OpenFlags flags) {
    Op open(IoOp::Kind::open);
    open.extra.path = path;
    open.extra.open = flags;
    handle_ = static_cast<Handle>(open.run());
    inline_class = open.op.backend_data[0];
  }
  ~OpenFile() { if (is_open()) Op(IoOp::Kind::close, handle_).run(); }
  bool is_open() const { return descriptor(handle_) >= 0; }
  Handle handle() const { return handle_; }
  std::int64_t transfer(IoOp::Kind kind, std::uint64_t offset, Buffers buffers) const {
    Op op(kind, handle_);
    op.op.offset = offset;
    op.op.buffers = buffers;
    return op.run();
  }
  std::int64_t allocate(AllocateMode mode, Range range) const {
    Op op(IoOp::Kind::allocate, handle_);
    op.op.allocate = mode;
    op.op.offset = range.offset;
    op.op.length = range.length;
    return op.run();
  }
  FileInfo stat() const {
    Op op(IoOp::Kind::stat, handle_);
    EXPECT_EQ(op.run(), 0);
    return op.extra.info;
  }
  std::uint64_t inline_class = 0;

 private:
  Handle handle_;
};

// Needs root; path() is empty where the system does not let us.
class LoopDevice {
 public:
  LoopDevice(const std::string& file, std::uint32_t sector) {
    const int control = ::open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    const int number = control < 0 ? -1 : ::ioctl(control, LOOP_CTL_GET_FREE);
    if (control >= 0) ::close(control);
    if (number < 0) return;
    const std::string path = "/dev/loop" + std::to_string(number);
    const int backing = ::open(file.c_str(), O_RDWR | O_CLOEXEC);
    device_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    loop_config config = {};
    config.fd = static_cast<std::uint32_t>(backing);
    config.block_size = sector;
    if (device_ >= 0 && ::ioctl(device_, LOOP_CONFIGURE, &config) == 0) path_ = path;
    ::close(backing);
  }
  ~LoopDevice() {
    if (!path_.empty()) ::ioctl(device_, LOOP_CLR_FD);
    if (device_ >= 0) ::close(device_);
  }
  const std::string& path() const { return path_; }

 private:
  int device_ = -1;
  std::string path_;
};

}  // namespace tidemark::posix
