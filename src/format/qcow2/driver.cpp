#include "format/qcow2/driver.hpp"

#include <algorithm>
#include <filesystem>

#include "base/paths.hpp"
#include "block/graph.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

// Space that is given back: how long a request does that for others, and in which turns; how much its own giver sees to.
constexpr Duration share_of_request = std::chrono::milliseconds(10), turn_length = std::chrono::milliseconds(1);
constexpr std::uint64_t much_bytes = 64 * MiB;

}  // namespace

BlockLimits Qcow2Driver::limits() const noexcept {
  // Bytes pass through to the file as they come, so its alignment is ours.
  BlockLimits limits;
  limits.request_align = file_->node().limits().request_align;
  limits.memory_align = file_->node().limits().memory_align;
  if (data_file_) {
    limits.request_align = std::max(limits.request_align, data_file_->node().limits().request_align);
    limits.memory_align = std::max(limits.memory_align, data_file_->node().limits().memory_align);
  }
  limits.write_zeroes_align = static_cast<std::uint32_t>(header_.geometry.subcluster_size());
  limits.discard_align = static_cast<std::uint32_t>(header_.geometry.cluster_size());
  limits.opt_transfer = limits.discard_align;
  return limits;
}

std::vector<Edge*> Qcow2Driver::edges() const {
  std::vector<Edge*> edges{file_.get()};
  if (data_file_) edges.push_back(data_file_.get());
  if (backing_) edges.push_back(backing_.get());
  return edges;
}

Result<> Qcow2Driver::check_writable() {
  TM_ASSERT(!read_only_);
  if (image_.corruption()) return *image_.corruption();
  return image_.intact();
}

std::optional<Extent> Qcow2Driver::in_place_now(Range wanted) noexcept {
  if (read_only_ || image_.corruption() || image_.loss()) return {};
  return map_.owned_now(wanted);
}

Task<Extent> Qcow2Driver::map_slow(Range wanted) {
  clean_caches();
  return watch(find(wanted));
}

Task<Extent> Qcow2Driver::find(Range wanted) {
  if (!shows_file()) co_await show_file();
  co_return co_await map_.find(wanted);
}

// After a loss, tables in memory say where things are that are not there any more, what was copied from below, too: the disk
// reads as the file says instead.
Task<> Qcow2Driver::show_file() {
  const auto turn = co_await showing_file_.lock();
  if (shows_file()) co_return;
  map_.l2().forget_all();
  co_await map_.load(header_);
  file_shown_ = true;
  if (BlockNode* node = file_->parent()) node->graph().content_replaced(*node);
}

void Qcow2Driver::clean_caches() noexcept {
  const Instant now = home().reactor().now();
  if (cache_clean_interval_ == Duration{} || now - caches_cleaned_ < cache_clean_interval_) return;
  caches_cleaned_ = now;
  map_.l2().drop_unused();
  refcounts_.blocks().drop_unused();
}

// What is found wrong with the image is written into its header before the error is returned.
template <class T>
Task<T> Qcow2Driver::watch(Task<T> work) {
  Result<T> outcome = co_await std::move(work).result();
  if (!outcome && image_.corruption()) co_await mark_corrupt();
  if constexpr (std::is_void_v<T>) co_await unwrap(outcome);
  else co_return co_await unwrap(std::move(outcome));
}

Task<> Qcow2Driver::mark_corrupt() {
  tell_corruption({image_.corruption()->message(), !read_only_});
  if (read_only_ || header_.geometry.version < 3 || std::exchange(marked_corrupt_, true)) co_return;
  (void)co_await header_writer_.set(Incompatible::corrupt, true).result();   // the first error is the one to show
}

Task<> Qcow2Driver::before_change() {
  clean_caches();
  const bool can_be_dirty = header_.geometry.version >= 3;         // it may have been amended
  if (lazy_ && can_be_dirty && marks_first_ && !header_.has(Incompatible::dirty)) co_await header_writer_.set(Incompatible::dirty, true);
  if (map_.l2().pressed() || refcounts_.blocks().pressed()) {
    co_await committer_.write_back();
    co_await give_back(share_of_request);
  }
  if (!frees_.pressed()) co_return;
  co_await flush();
  co_await give_back(without_limit);
}

Task<> Qcow2Driver::flush() {
  clean_caches();
  image_.tell(DebugEvent::flush_to_os);
  if (read_only_) co_return;
  co_await watch(committer_.flush());
  co_await give_back(share_of_request);
}

// Counts that cannot be lowered now are leaks at worst.
Task<> Qcow2Driver::give_back(Duration at_most) {
  Reactor& here = home().reactor();
  const Instant begun = here.now();
  while (frees_.any_reusable() && here.now() - begun < at_most) {
    const Instant turn = here.now();
    const auto enough = [&here, turn] { return here.now() - turn >= turn_length; };
    const Result<> done = co_await watch(refcounts_.apply_frees(enough)).result();
    if (!done) co_return;
    if (frees_.any_reusable()) co_await here.yield();
  }
}

// Who gives up much waits until the file has its space back: whoever flushes next, or needs a new cluster, would else.
Task<> Qcow2Driver::give_back_if_much() {
  const bool much = frees_.much(much_bytes >> header_.geometry.cluster_bits);
  if (!much && !frees_.much_left()) co_return;
  if (much) (void)co_await watch(committer_.flush()).result();      // a loss is told by the next flush
  co_await give_back(without_limit);
}

Task<> Qcow2Driver::close() {
  const Result<> closed = co_await complete().result();
  backing_.reset();
  data_file_.reset();
  file_.reset();
  co_await unwrap(closed);
}

// All that was changed is in the image, which is as an image that is closed.
Task<> Qcow2Driver::complete() {
  if (read_only_) co_return;
  co_await flush();
  co_await give_back(without_limit);
  co_await committer_.flush();                           // the counts that went down
  if (image_.corruption()) co_return;                    // what was written is in it, but it is not well
  if (lazy_) co_await end_lazily();
  co_await image_.trim();
}

// The refcounts have caught up: the image is clean once they are durable.
Task<> Qcow2Driver::end_lazily() {
  committer_.postpone(0);
  co_await committer_.flush();
  co_await header_writer_.set(Incompatible::dirty, false);
}

std::optional<std::string> Qcow2Driver::backing_path(const std::string& image, std::string name) {
  if (name.starts_with("file:")) name.erase(0, 5);
  if (name.empty() || has_protocol(name)) return std::nullopt;
  if (name.starts_with('/')) return name;
  return file_not_protocol(plain_path(std::filesystem::path(image).parent_path() / name));
}

Task<ImageInfo> Qcow2Driver::info() {
  const ImageInfo file = co_await file_->node().driver().info();
  ImageInfo info;
  info.filename = file.filename;
  info.format = name();
  info.virtual_size = size();
  info.actual_size = file.actual_size;
  info.cluster_size = header_.geometry.cluster_size();
  info.dirty = header_.has(Incompatible::dirty);
  info.backing_filename = header_.backing_name;
  info.full_backing_filename = backing_path(file.filename, header_.backing_name).value_or(header_.backing_name);
  info.backing_format = header_.backing_format;
  ImageInfo::Qcow2 specific;
  specific.compat = header_.geometry.version < 3 ? "0.10" : "1.1";
  specific.lazy_refcounts = header_.has(Compatible::lazy_refcounts);
  specific.corrupt = header_.has(Incompatible::corrupt);
  specific.extended_l2 = header_.has(Incompatible::extended_l2);
  specific.refcount_bits = header_.geometry.refcount_bits();
  specific.compression_type = to_string(header_.compression);
  specific.data_file = header_.data_file;
  specific.data_file_raw = header_.has(Autoclear::data_file_raw);
  info.qcow2 = specific;
  co_return info;
}

template Task<> Qcow2Driver::watch(Task<> work);
template Task<std::uint64_t> Qcow2Driver::watch(Task<std::uint64_t> work);
template Task<Extent> Qcow2Driver::watch(Task<Extent> work);
template Task<std::unique_ptr<PendingWrite>> Qcow2Driver::watch(Task<std::unique_ptr<PendingWrite>> work);

}  // namespace tidemark
