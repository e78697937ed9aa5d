// RawDriver: a file's bytes as a disk, all of them or the window that `offset` and `size` say.
//
// Requests pass straight through, none reaches out of the window; without a `size` the disk follows the file's.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "block/driver.hpp"
#include "block/edge.hpp"

namespace tidemark {

struct RawOptions {
  std::uint64_t offset = 0;
  std::optional<std::uint64_t> size;
};

class RawDriver final : public BlockDriver {
 public:
  // Errors are QEMU's.
  static Result<std::unique_ptr<RawDriver>> open(std::unique_ptr<Edge> file, RawOptions options);

  // Of a node: shows another part of the file, or all of it; nothing is in flight.  On error all is as it was.
  Result<> show(RawOptions options);
  Result<> check_show(const RawOptions& options) const;  // whether it would
  const RawOptions& options() const noexcept { return options_; }

  std::string_view name() const noexcept override { return "raw"; }
  std::uint64_t size() const noexcept override;
  BlockLimits limits() const noexcept override;
  bool supports_fua() const noexcept override { return true; }
  std::vector<Edge*> edges() const override { return {file_.get()}; }
  Permissions child_permissions(const Edge& child, Permissions node, bool writable) const override;

  Task<Extent> map(Range wanted) override;
  Task<> read(std::uint64_t offset, Buffers into) override {
    file_->tell(DebugEvent::read_aio);
    const Range there = inside({offset, into.size()});
    into.from(there.length).fill_zero();
    return file_->read(at(there.offset), into.first(there.length));
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    file_->tell(DebugEvent::write_aio);
    const Range there = inside({offset, from.size()});
    if (!from.from(there.length).all_zero()) return refuse_rest();
    return file_->write(at(there.offset), from.first(there.length), flags);
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override { return file_->write_zeroes(at(inside(range)), flags); }
  Task<> discard(Range range) override { return file_->discard(at(inside(range))); }
  Task<> flush() override {
    file_->tell(DebugEvent::flush_to_os);
    file_->tell(DebugEvent::flush_to_disk);
    return file_->flush();
  }
  Task<> truncate(std::uint64_t size, Growth growth) override;
  Task<std::optional<std::uint64_t>> device_size() override;
  Task<ImageInfo> info() override;
  Task<> close() override;

 private:
  RawDriver(std::unique_ptr<Edge> file, RawOptions options) : file_(std::move(file)), options_(options) {}
  std::uint64_t at(std::uint64_t offset) const noexcept { return options_.offset + offset; }
  // The node completes the last sector of a window at an odd offset, and the last unit, with zeroes, which have no place.
  Range inside(Range range) const noexcept {
    const std::uint64_t end = size(), begin = std::min(range.offset, end);
    return {begin, std::min(range.length, end - begin)};
  }
  Task<> refuse_rest();
  Range at(Range range) const noexcept { return {at(range.offset), range.length}; }

  std::unique_ptr<Edge> file_;
  RawOptions options_;
};

}  // namespace tidemark
