// FileDriver: a file or block device as a disk.
//
// Invariant: size_ is what the disk's users see.  A device that has grown is as large as it was until truncate() says more, and
// ends with an error where it has become smaller.  With direct I/O the node pads the last request to
// the device's sectors; the file is cut back to size_ then, under resizing_.
#pragma once

#include "block/driver.hpp"
#include "io/file.hpp"
#include "storage/file.hpp"
#include "task/sync.hpp"

namespace tidemark {

// What others who have the image may do meanwhile, and what they are told of this user.
Permissions lock_permissions(const FileOptions& options);

class FileDriver final : public BlockDriver {
 public:
  // Takes the open file; `info` is of it, and it was opened, and locked, by the options.
  FileDriver(File file, const FileInfo& info, FileOptions options);

  std::string_view name() const noexcept override { return is_device_ ? "host_device" : "file"; }
  std::uint64_t size() const noexcept override { return size_; }
  BlockLimits limits() const noexcept override { return limits_; }
  bool supports_fua() const noexcept override { return true; }

  Task<Extent> map(Range wanted) override;
  Task<> read(std::uint64_t offset, Buffers into) override;
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override;
  Task<> flush() override;
  Task<> write_back(PageCache after) override;
  Task<> open_anew() override;
  // What is told of a loss afterwards, without asking the kernel, is not another one.
  bool lost_by(const Error& failed) const noexcept override { return !lost_ || failed.message() != lost_->message(); }
  bool lost() noexcept override { return lost_.has_value(); }
  // What a device has grown by becomes zeroes, as a file's end is: who asks may count on that.
  Task<> truncate(std::uint64_t size, Growth growth) override;
  Task<std::optional<std::uint64_t>> device_size() override;
  Task<> set_read_only(bool read_only) override;
  Task<> set_active(bool active) override;
  Task<ImageInfo> info() override;
  const std::string& path() const noexcept { return file_.path(); }
  // Whether its name leads to it still.
  Task<bool> named();
  // The file has another name by now.
  void renamed(std::string path) {
    options_.filename = path;
    file_.renamed(std::move(path));
  }
  Task<> close() override;
  void leave() noexcept override { file_.leave(); }
  void arrive() noexcept override { file_.arrive(home().reactor()); }

 private:
  static BlockLimits limits_of(const FileInfo& info, bool direct);
  Task<> write_durably(std::uint64_t offset, Buffers from);
  Task<> write_end(std::uint64_t offset, Buffers from, bool durable);
  Task<> allocate(AllocateMode mode, Range range);
  bool& able_to(AllocateMode mode) noexcept;
  bool is_refusal(const Error& error) const noexcept;
  Task<> fit_device(std::uint64_t& size, Growth growth);
  Task<> zero_new(Range range);
  Result<> judge(Result<> done);                 // of what was to be durable
  Task<> replace_file(File& next, const FileOptions& wanted);
  Task<> take_up(File& next);

  File file_;
  FileOptions options_;
  BlockLimits limits_;
  std::uint64_t size_;
  Mutex resizing_;
  // The kernel looks through all the page cache that a run of data has: once, not for each who asks.
  Mutex looking_;
  // A run of data that map() has seen.  Data may have become a hole unseen; that only costs time.
  Range data_;
  std::uint64_t holes_made_ = 0;  // a run seen while one was made is not remembered
  std::optional<Error> lost_;     // the kernel has dropped what it failed to write back
  std::uint64_t losses_ = 0;      // found by who made something durable
  bool is_device_;
  bool can_punch_ = true, can_zero_ = true, can_discard_ = true;
};

// In pieces, durable: the space is there afterwards whatever the storage does with falloc.
Task<> write_zeroes_to(File& file, Range range, CancelToken interrupted = {});

}  // namespace tidemark
