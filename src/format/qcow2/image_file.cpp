#include "format/qcow2/image_file.hpp"

#include <algorithm>
#include <cerrno>

#include "block/node.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t growth_step = 16 * MiB;

}  // namespace

Task<> ImageFile::read(HostOffset at, Buffers into) {
  const Range there = Range{at.value, into.size()}.intersect({0, size()});
  if (!there.empty()) co_await file_.read(at.value, into.first(there.length));
  into.from(there.length).fill_zero();
}

Task<> ImageFile::flush() {
  tell(DebugEvent::flush_to_disk);
  if (data_file_) co_await data_file_->flush();
  co_await file_.flush();
}

Task<> ImageFile::complete_last_cluster() {
  const std::uint64_t end = align_up(size(), geometry_.cluster_size());
  if (end == size()) co_return;
  const Result<> grown = co_await file_.truncate(end).result();
  // A device cannot: there is no place for the rest then (Qcow2Driver::refuse_own).
  if (!grown && grown.error().code() != Errc::unsupported) co_await grown.error();
}

Task<> ImageFile::grow(std::uint64_t end) {
  const std::uint64_t before = size();
  if (end <= before) co_return;
  if (end > offset_limit) co_await Error(Errc::no_space, "qcow2: the image file would exceed 64 PiB");
  // A file system's limit may lie within the stretch: then just what is needed.
  Result<> grown = co_await file_.truncate(align_up(end, growth_step)).result();
  if (!grown) grown = co_await file_.truncate(end).result();
  if (!grown && grown.error().code() == Errc::unsupported)
    co_await Error(Errc::no_space, "qcow2: '" + file_.node().name() + "' is full and cannot grow", ENOSPC);
  co_await unwrap(grown);
  fresh_ = std::max(std::min(fresh_, align_up(before, geometry_.cluster_size())), used_end_);
}

Task<> ImageFile::trim() {
  if (fresh_ < offset_limit && used_end_ < size()) co_await file_.truncate(used_end_);
}

bool ImageFile::take(HostRun run) noexcept {
  const Range range = geometry_.bytes_of(run);
  used_end_ = std::max(used_end_, range.end());
  const bool reads_as_zero = range.offset >= fresh_;
  fresh_ = std::max(fresh_, range.end());
  return reads_as_zero;
}

Result<> ImageFile::claim_metadata(HostRun run, Metadata kind) {
  const Range bytes = geometry_.bytes_of(run);
  if (!has(checks_, kind) || bytes.empty()) return {};
  if (!fits(bytes.offset, bytes.length, offset_limit)) return {};     // found out when it is used
  if (is_metadata(bytes))
    return corrupt(std::string(to_string(kind)) + " at offset " + std::to_string(bytes.offset) + " overlaps other metadata");
  add_metadata(run, kind);
  return {};
}

Error ImageFile::corrupt(std::string what) {
  Error error(Errc::corrupt, "qcow2: image '" + file_.node().name() + "' is corrupt: " + std::move(what));
  if (!corruption_) corruption_ = error;
  return error;
}

}  // namespace tidemark::qcow2
