#include "storage/file_driver.hpp"

#include <algorithm>
#include <cerrno>

#include "io/aligned.hpp"

namespace tidemark {

namespace {

constexpr std::uint32_t cache_page = 4096;
// The kernel lets nobody else to the device while it discards or zeroes a range.
constexpr std::uint64_t device_zeroes_max = 64 * MiB;

}  // namespace

BlockLimits FileDriver::limits_of(const FileInfo& info, bool direct) {
  BlockLimits limits;
  if (direct) {
    limits.request_align = info.logical_block;
    limits.memory_align = info.memory_align;
  }
  // Files take any range.
  if (info.type != FileInfo::Type::block_device) return limits;
  // A device takes whole sectors.  Of a page that is not all of the range, a write beside it may have read the rest before and
  // write it back after.
  limits.write_zeroes_align = limits.discard_align = direct ? info.logical_block : std::max(info.logical_block, cache_page);
  limits.max_zeroes = device_zeroes_max;
  return limits;
}

namespace {

bool is_want_of_space(const Error& error) {
  const int why = error.os_errno();
  return why == ENOSPC || why == EDQUOT || why == EFBIG;
}

Error unsupported(const File& file, std::string_view what) {
  return Error(Errc::unsupported, std::string(what) + " is not supported on '" + file.path() + "'",
               ENOTSUP);
}

}  // namespace

FileDriver::FileDriver(File file, const FileInfo& info, FileOptions options)
    : BlockDriver(file.reactor()),
      file_(std::move(file)),
      options_(std::move(options)),
      limits_(limits_of(info, options_.direct)),
      size_(info.size),
      resizing_(home()),
      looking_(home()),
      is_device_(info.type == FileInfo::Type::block_device) {}

Task<Extent> FileDriver::map(Range wanted) {
  const std::uint64_t at = wanted.offset;
  if (data_.contains(at)) co_return Extent{wanted.intersect(data_), Mapping::data, at};
  const auto guard = co_await looking_.lock();
  if (data_.contains(at)) co_return Extent{wanted.intersect(data_), Mapping::data, at};
  const std::uint64_t holes_made = holes_made_;
  const FileExtent found = co_await file_.extent(at);
  // length 0: cut off behind our back.  What a device has not any more is data: to read it fails.
  if (is_device_ && found.length == 0) co_return Extent{wanted, Mapping::data, at};
  if (!found.data || found.length == 0) {
    if (found.length != 0) wanted.length = std::min(wanted.length, found.length);
    co_return Extent{wanted, Mapping::zero, at};
  }
  const Range run{at, found.length};
  if (holes_made == holes_made_) data_ = run;
  co_return Extent{wanted.intersect(run), Mapping::data, at};
}

// A device whose end has come nearer does not read as zeroes behind it; padding does.
Task<> FileDriver::read(std::uint64_t offset, Buffers into) {
  if (!is_device_) return file_.read(offset, into);
  const Range there = Range{offset, into.size()}.intersect(Range{0, size_});
  return file_.read(offset, into, there.length);
}

Task<> FileDriver::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const bool fua = has(flags, WriteFlags::fua);
  if (offset + from.size() > size_) return write_end(offset, from, fua);
  return fua ? write_durably(offset, from) : file_.write(offset, from);
}

// One that was refused for want of space has dropped nothing; one that was taken, and could not be made durable, has.  Which of
// the two it was, the same write says when nothing else is asked of it.
Task<> FileDriver::write_durably(std::uint64_t offset, Buffers from) {
  if (lost_) co_await *lost_;
  const Result<> done = co_await file_.write(offset, from, true).result();
  if (!done && is_want_of_space(done.error())) {
    const Result<> again = co_await file_.write(offset, from).result();
    if (!again && is_want_of_space(again.error()) && !lost_) co_await again.error();
  }
  co_await unwrap(judge(done));
}

// A write over the end: the odd rest of a sector becomes part of the file, padding does not.
Task<> FileDriver::write_end(std::uint64_t offset, Buffers from, bool fua) {
  const auto guard = co_await resizing_.lock();
  const std::uint64_t end = offset + from.size();
  co_await file_.write(offset, from);
  const std::uint64_t padded = align_up(size_, limits_.request_align);
  const std::uint64_t sector = align_up(size_, sector_size);
  const std::uint64_t size = end > padded ? end : std::max(size_, std::min(end, sector));
  if (end > size) co_await file_.truncate(size);
  size_ = size;
  if (fua) co_await flush();
}

bool& FileDriver::able_to(AllocateMode mode) noexcept {
  if (mode == AllocateMode::discard) return can_discard_;
  return mode == AllocateMode::punch_hole ? can_punch_ : can_zero_;
}

// Some file systems say EINVAL for a range they cannot deallocate or zero.  A device is busy when its pages are in use at this moment.
bool FileDriver::is_refusal(const Error& error) const noexcept {
  const bool busy = is_device_ && error.os_errno() == EBUSY;
  return error.code() == Errc::unsupported || error.os_errno() == EINVAL || busy;
}

Task<> FileDriver::allocate(AllocateMode mode, Range range) {
  bool& able = able_to(mode);
  if (!able) co_await unsupported(file_, "deallocating or zeroing a range");
  ++holes_made_;
  data_ = {};
  const Result<> done = co_await file_.allocate(mode, range).result();
  ++holes_made_;
  data_ = {};
  if (done) co_return;
  if (!is_refusal(done.error())) co_await done.error();
  able = able && done.error().code() != Errc::unsupported;
  co_await unsupported(file_, "deallocating or zeroing a range");
}

Task<> FileDriver::write_zeroes(Range range, WriteFlags flags) {
  range = range.intersect(Range{0, size_});  // behind the end there are zeroes
  if (range.empty()) co_return;
  if (has(flags, WriteFlags::may_unmap)) {
    const Result<> punched = co_await allocate(AllocateMode::punch_hole, range).result();
    if (punched) co_return;
    if (punched.error().code() != Errc::unsupported) co_await punched.error();
  }
  // A device that cannot zero by itself has the kernel write zeroes: right, but not fast.
  if (is_device_ && has(flags, WriteFlags::no_fallback))
    co_await unsupported(file_, "fast zeroing");
  co_await allocate(AllocateMode::zero_range, range);
}

Task<> FileDriver::discard(Range range) {
  range = range.intersect(Range{0, size_});
  if (range.empty()) co_return;
  const AllocateMode mode = is_device_ ? AllocateMode::discard : AllocateMode::punch_hole;
  co_await allocate(mode, range);
}

Task<> FileDriver::flush() {
  if (lost_) co_await *lost_;
  const Result<> done = co_await file_.sync().result();
  co_await unwrap(judge(done));
}

Task<> FileDriver::write_back(PageCache after) {
  if (!options_.direct) co_await file_.write_back(after);
}

// The kernel reports a failed write-back once and then forgets the data: after that nothing that
// went through the page cache may be called durable again, nor what was asked at the same time.
Result<> FileDriver::judge(Result<> done) {
  if (!done && !options_.direct) {
    ++losses_;
    if (!lost_) lost_ = done.error().with_context("what was written before is lost");
    return done;
  }
  return lost_ ? Result<>(*lost_) : done;
}

Task<> FileDriver::truncate(std::uint64_t size, Growth growth) {
  if (size > max_disk_size) co_await Error(Errc::out_of_range, "Image size is too large", EFBIG);
  const auto guard = co_await resizing_.lock();
  if (is_device_) co_await fit_device(size, growth);
  else co_await file_.truncate(size);
  ++holes_made_;
  data_ = {};
  size_ = size;
}

// A device has the size that it has: more than it had is there to be used, less cannot be asked for.
Task<> FileDriver::fit_device(std::uint64_t& size, Growth growth) {
  const FileInfo found = co_await file_.stat();
  if (size > found.size) co_await Error(Errc::unsupported, "Cannot grow device files", ENOTSUP);
  if (size < size_ && size != found.size) co_await Error(Errc::unsupported, "Cannot resize device files", ENOTSUP);
  size = std::min(align_up(size, found.logical_block), found.size);
  if (size <= size_ || growth == Growth::as_it_is) co_return;
  const Range grown{size_, size - size_};
  co_await zero_new(grown);
}

Task<> FileDriver::zero_new(Range range) {
  while (!range.empty()) {
    const Range part{range.offset, std::min(range.length, device_zeroes_max)};
    const Result<> zeroed = co_await allocate(AllocateMode::zero_range, part).result();
    if (!zeroed && zeroed.error().code() != Errc::unsupported) co_await zeroed.error();
    if (!zeroed) co_await write_zeroes_to(file_, part);
    range = {part.end(), range.length - part.length};
  }
}

Task<> write_zeroes_to(File& file, Range range, CancelToken interrupted) {
  AlignedBuffer zeroes(1 * MiB);
  Buffers(zeroes.bytes()).fill_zero();
  for (std::uint64_t at = range.offset; at < range.end(); at += zeroes.size()) {
    if (interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
    co_await file.write(at, zeroes.bytes().first(std::min<std::uint64_t>(zeroes.size(), range.end() - at)));
  }
  co_await file.sync();
}

Task<std::optional<std::uint64_t>> FileDriver::device_size() {
  if (!is_device_) co_return std::nullopt;
  const FileInfo found = co_await file_.stat();
  co_return found.size;
}

Task<bool> FileDriver::named() {
  const FileInfo mine = co_await file_.stat();
  const auto found = co_await fs::stat(file_.reactor(), file_.path()).result();
  co_return found && found->type == mine.type && found->device == mine.device && found->inode == mine.inode;
}

Task<ImageInfo> FileDriver::info() {
  const FileInfo found = co_await file_.stat();
  ImageInfo info;
  info.filename = file_.path();
  info.format = name();
  info.virtual_size = align_up(size_, sector_size);
  info.actual_size = found.allocated;
  co_return info;
}

}  // namespace tidemark
