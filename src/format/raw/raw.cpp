#include "format/raw/raw.hpp"

#include <algorithm>
#include <cerrno>

#include "block/graph.hpp"

namespace tidemark {
namespace {

Result<> check(const RawOptions& options, std::uint64_t file_size) {
  auto number = [](std::uint64_t n) { return "(" + std::to_string(n) + ")"; };
  if (options.offset > file_size)
    return Error(Errc::invalid_argument, "Offset " + number(options.offset) +
                                             " cannot be greater than size of the containing file " +
                                             number(file_size));
  if (!options.size) return {};
  if (*options.size > file_size - options.offset)
    return Error(Errc::invalid_argument,
                 "The sum of offset " + number(options.offset) + " and size " + number(*options.size) +
                     " has to be smaller or equal to the actual size of the containing file " + number(file_size));
  if (!is_aligned(*options.size, sector_size))
    return Error(Errc::invalid_argument, "Specified size is not multiple of " + std::to_string(sector_size));
  return {};
}

// The largest power of two that divides both: what a window at `offset` keeps of an alignment.
std::uint32_t kept(std::uint32_t align, std::uint64_t offset) {
  while (!is_aligned(offset, align)) align /= 2;
  return align;
}

}  // namespace

Result<std::unique_ptr<RawDriver>> RawDriver::open(std::unique_ptr<Edge> file, RawOptions options) {
  if (auto ok = check(options, file->size()); !ok) return ok.error();
  return std::unique_ptr<RawDriver>(new RawDriver(std::move(file), options));
}

Result<> RawDriver::check_show(const RawOptions& options) const { return check(options, file_->size()); }

Result<> RawDriver::show(RawOptions options) {
  if (auto ok = check_show(options); !ok) return ok;
  std::swap(options_, options);
  BlockNode& node = *file_->parent();
  auto ok = node.graph().refresh_permissions(node);
  if (!ok) std::swap(options_, options);
  return ok;
}

std::uint64_t RawDriver::size() const noexcept {
  if (options_.size) return *options_.size;
  const std::uint64_t file_size = file_->size();
  return file_size - std::min(file_size, options_.offset);
}

// The file's node pads what a window at an odd offset makes unaligned.
BlockLimits RawDriver::limits() const noexcept {
  BlockLimits limits = file_->node().limits();
  limits.request_align = kept(limits.request_align, options_.offset);
  limits.write_zeroes_align = kept(limits.write_zeroes_align, options_.offset);
  limits.discard_align = kept(limits.discard_align, options_.offset);
  return limits;
}

// A window onto the file adds nothing of its own: its users use the file.
Permissions RawDriver::child_permissions(const Edge&, Permissions node, bool) const {
  if (options_.size) node.shares = static_cast<Permissions::Set>(node.shares & ~Permissions::resize);
  return node;
}

Task<> RawDriver::refuse_rest() {
  co_await Error(Errc::no_space, "raw: the disk ends at " + std::to_string(size()) + ", within a sector", ENOSPC);
}

Task<Extent> RawDriver::map(Range wanted) {
  Extent extent = co_await file_->map(at(wanted));
  extent.host_offset = extent.range.offset;
  extent.range.offset = wanted.offset;
  if (extent.mapping == Mapping::compressed || extent.mapping == Mapping::below) {
    extent.mapping = Mapping::data;      // the file's own affair: here it is just stored
  }
  co_return extent;
}

Task<> RawDriver::truncate(std::uint64_t size, Growth growth) {
  if (options_.size) co_await Error(Errc::unsupported, "Cannot resize fixed-size raw disks");
  if (size > max_disk_size - options_.offset)
    co_await Error(Errc::out_of_range, "Disk size too large for the chosen offset");
  co_await file_->truncate(at(size), growth);
}

Task<std::optional<std::uint64_t>> RawDriver::device_size() {
  std::optional<std::uint64_t> whole = co_await file_->node().driver().device_size();
  if (whole) *whole -= std::min(*whole, options_.offset);
  co_return whole;
}

Task<ImageInfo> RawDriver::info() {
  ImageInfo info = co_await file_->node().driver().info();
  info.format = name();
  info.virtual_size = align_up(size(), sector_size);
  info.qcow2.reset();
  co_return info;
}

Task<> RawDriver::close() {
  file_.reset();
  co_return;
}

}  // namespace tidemark
