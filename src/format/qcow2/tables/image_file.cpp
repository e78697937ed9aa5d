#include "format/qcow2/tables/image_file.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t growth_step = 16 * MiB;

}  // namespace

Task<> ImageFile::read(HostOffset at, Buffers into) {
  const Range there = Range{at.value, into.size()}.intersect({0, size()});
  if (!there.empty()) co_await file_.read(at.value, into.first(there.length));
  into.from(there.length).fill_zero();
}

Task<> ImageFile::write(HostOffset at, Buffers from) {
  co_await unwrap(intact());
  co_await file_.write(at.value, from);
}

Task<> ImageFile::write_zeroes(Range range) {
  co_await unwrap(intact());
  co_await file_.write_zeroes(range);
}

Task<> ImageFile::discard(Range range) {
  co_await unwrap(intact());
  co_await file_.discard(range);
}

// Another's flush may fail while this one is under way.
Task<> ImageFile::flush() {
  tell(DebugEvent::flush_to_disk);
  co_await unwrap(intact());
  Result<> flushed;
  if (data_file_) flushed = co_await data_file_->flush().result();
  const Edge& failed = flushed ? file_ : *data_file_;
  if (flushed) flushed = co_await file_.flush().result();
  if (!flushed) look(&flushed.error(), failed);
  co_await unwrap(intact());
  co_await unwrap(flushed);
}

std::uint64_t ImageFile::losses_below() const noexcept {
  return file_.node().losses() + (data_file_ ? data_file_->node().losses() : 0);
}

void ImageFile::watch() noexcept {
  loss_.reset();
  owner_ = file_.parent();
  counted_ = losses();
}

// An image that is opened has no node yet.
void ImageFile::look(const Error* why, const Edge& storage) {
  if (loss_) return;
  const bool lost = losses() > counted_;         // a filter that comes below an image without a node has lost nothing
  owner_ = file_.parent();
  counted_ = losses();
  if (!lost) return;
  const std::string because = why ? " (" + why->message() + ")" : "";
  loss_ = Error(Errc::io, "qcow2: the storage '" + storage.node().name() + "' has lost what was written since its last flush" + because +
                              ": nothing more is written to the image until it is opened anew (blockdev-reopen)", EIO);
}

Result<> ImageFile::intact() {
  if (loss()) return *loss_;
  return {};
}

Task<> ImageFile::complete_last_cluster() {
  const std::uint64_t end = align_up(size(), geometry_.cluster_size());
  if (end == size()) co_return;
  const Result<> grown = co_await file_.truncate(end).result();
  // Not a device that ends there: the image goes on, and who would write to the cluster is refused (Qcow2Driver::refuse_own).
  if (!grown && grown.error().code() != Errc::unsupported) co_await grown.error();
}

Task<> ImageFile::grow(std::uint64_t end) {
  const std::uint64_t before = size();
  if (end <= before) co_return;
  co_await unwrap(intact());
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
  if (fresh_ == offset_limit || used_end_ >= size()) co_return;
  const Result<> cut = co_await file_.truncate(used_end_).result();
  if (!cut && cut.error().code() != Errc::unsupported) co_await cut.error();         // a device keeps it
}

void ImageFile::forget_use() noexcept {
  fresh_ = offset_limit;
  used_end_ = align_up(size(), geometry_.cluster_size());
  unsynced_ = 0;
  forget_metadata();
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

// What is found wrong after a loss may be the loss.
Error ImageFile::corrupt(std::string what) {
  if (loss()) return *loss_;
  Error error(Errc::corrupt, "qcow2: image '" + file_.node().name() + "' is corrupt: " + std::move(what));
  if (!corruption_) corruption_ = error;
  return error;
}

}  // namespace tidemark::qcow2
