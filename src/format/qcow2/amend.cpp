// What may change in an image that exists: its version, its features, the names in its header, the width of its
// refcounts; and space reserved for what it grows by.
#include <algorithm>
#include <bit>

#include "block/edge.hpp"
#include "format/qcow2/pending_clusters.hpp"
#include "format/qcow2/preallocate.hpp"
#include "format/qcow2/tables/next_tables.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

Error refused(std::string why) { return Error(Errc::invalid_argument, std::move(why)); }

// What the header would be; the tables are not looked at.
Header amended(const Header& present, const Qcow2AmendOptions& o) {
  Header h = present;
  h.geometry.version = o.version.value_or(h.geometry.version);
  if (o.refcount_bits) h.geometry.refcount_order = static_cast<std::uint32_t>(std::countr_zero(*o.refcount_bits));
  if (o.lazy_refcounts) h.set(Compatible::lazy_refcounts, *o.lazy_refcounts);
  if (o.backing_file) h.backing_name = *o.backing_file;
  if (o.backing_format) h.backing_format = *o.backing_format;
  if (h.backing_name.empty()) h.backing_format.clear();
  if (o.data_file) h.data_file = *o.data_file;
  if (o.data_file_raw) h.set(Autoclear::data_file_raw, *o.data_file_raw);
  return h;
}

Result<> check_names(const Header& h, const Qcow2AmendOptions& o) {
  if (h.backing_name.size() > name_bytes_max) return refused("Backing file name too long");
  if (h.data_file.size() > name_bytes_max) return refused("Data file name too long");
  if ((o.data_file || o.data_file_raw.value_or(false)) && !h.geometry.external_data)
    return refused("data-file can only be set for images that use an external data file");
  if (!h.backing_name.empty() && h.data_file_raw())
    return refused("Backing file and data-file-raw cannot be used at the same time");
  return {};
}

Result<> check_amended(const Header& h, const Qcow2AmendOptions& o) {
  const std::uint32_t version = h.geometry.version;
  if (version < 2 || version > 3) return refused("qcow2: version must be 2 or 3");
  if (o.refcount_bits && (!is_power_of_two(*o.refcount_bits) || *o.refcount_bits > 64))
    return refused("Refcount width must be a power of two and may not exceed 64 bits");
  if (auto ok = check_names(h, o); !ok) return ok;
  if (version >= 3) return {};
  if (h.geometry.refcount_order != 4)
    return refused(o.version ? "compat=0.10 requires refcount_bits=16"
                             : "Different refcount widths than 16 bits require compatibility level 1.1 or above "
                               "(use compat=1.1 or greater)");
  if (o.lazy_refcounts.value_or(false))
    return refused("Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
  const auto dirty = static_cast<std::uint64_t>(Incompatible::dirty);
  if (h.incompatible & ~dirty) return refused("Cannot downgrade an image with incompatible features set");
  if (h.snapshots != 0 && o.version) return refused("qcow2: cannot downgrade an image with internal snapshots");
  return {};
}

}  // namespace

Task<> Qcow2Driver::amend(Qcow2AmendOptions options) {
  co_await unwrap(check_writable());
  const bool downgrade = options.version.value_or(3) < 3 && header_.geometry.version >= 3;
  if (header_.geometry.version < 3 && options.version.value_or(2) < 3) options.version.reset();
  if (options.data_file_raw.value_or(false) && !header_.data_file_raw())
    co_await refused("data-file-raw may not be set on existing images");
  const Header wanted = amended(header_, options);
  co_await unwrap(check_amended(wanted, options));
  co_await before_change();
  co_await flush();
  if (downgrade) co_await watch(forget_zeroes(options.progress));
  if (lazy_ && downgrade) co_await end_lazily();
  // Version 2 says nothing of how wide they are.
  const std::uint32_t order = wanted.geometry.refcount_order;
  if (downgrade && order != header_.geometry.refcount_order) co_await change_refcount_order(order, options.progress);
  Header next = amended(header_, options);
  if (downgrade) next.compatible = next.autoclear = 0;
  next.geometry.refcount_order = header_.geometry.refcount_order;
  co_await header_writer_.rewrite(next);
  image_.set_geometry(header_.geometry);
  if (order != header_.geometry.refcount_order) co_await change_refcount_order(order, options.progress);
  if (options.size && *options.size != size()) co_await truncate(*options.size);
}

Result<> Qcow2Driver::check_backing_name(std::string name, std::string format) const {
  Qcow2AmendOptions options;
  options.backing_file = std::move(name);
  options.backing_format = std::move(format);
  return check_names(amended(header_, options), options);
}

Task<> Qcow2Driver::write_backing_name(std::string name, std::string format) {
  co_await unwrap(check_writable());
  co_await unwrap(check_backing_name(name, format));
  co_await flush();
  co_await header_writer_.set_backing(std::move(name), std::move(format));
}

// Version 2 cannot say that a cluster reads as zeroes: it is written so, or left out where nothing shows from below.
Task<> Qcow2Driver::forget_zeroes(Progress progress) {
  constexpr std::uint64_t piece_max = 1 * MiB;
  AlignedBuffer zeroes(std::max<std::uint64_t>(piece_max, header_.geometry.cluster_size()));
  Buffers(zeroes.bytes()).fill_zero();
  Range rest{0, size()};
  while (!rest.empty()) {
    Extent extent = co_await map(rest);
    const bool zero = extent.mapping == Mapping::zero || extent.mapping == Mapping::zero_allocated;
    if (zero && stands_on_another()) {
      extent.range.length = std::min<std::uint64_t>(extent.range.length, zeroes.size());
      co_await write(extent.range.offset, zeroes.bytes().first(extent.range.length), WriteFlags::none);
    } else if (zero) {
      const Range clusters = extent.range.widened(header_.geometry.cluster_size());
      co_await zero_clusters(clusters, Zeroing::forget);
    }
    rest = {extent.range.end(), rest.end() - extent.range.end()};
    if (progress) progress(rest.offset, size());
  }
  const std::uint64_t end = align_up(size(), header_.geometry.cluster_size());
  const Range left_over{end, map_.reach() - std::min(map_.reach(), end)};      // of a disk that was longer
  co_await zero_clusters(left_over, Zeroing::forget);
  co_await flush();
}

// Of clusters that nothing shows yet.
Task<> Qcow2Driver::write_zeroes_out(Range range) {
  constexpr std::uint64_t piece_max = 1 * MiB;
  AlignedBuffer zeroes(std::min(range.length, std::max(piece_max, header_.geometry.cluster_size())));
  Buffers(zeroes.bytes()).fill_zero();
  while (!range.empty()) {
    const std::uint64_t length = std::min<std::uint64_t>(range.length, zeroes.size());
    co_await write(range.offset, zeroes.bytes().first(length), WriteFlags::none);
    range = {range.offset + length, range.length - length};
  }
}

Task<> Qcow2Driver::change_refcount_order(std::uint32_t order, Progress progress) {
  NextTables::Image image{home(), image_, refcounts_, committer_, header_writer_};
  NextTables next(image, order);
  next.set_progress(std::move(progress));
  Header header = header_;
  header.geometry.refcount_order = order;
  const Result<> changed = co_await watch(convert_refcounts(next, header)).result();
  if (!changed) {
    next.abandon();
    co_await changed.error();
  }
}

Task<> Qcow2Driver::convert_refcounts(NextTables& next, Header header) {
  co_await next.begin(0);
  co_await commit_tables(next, header);
}

Task<> Qcow2Driver::resize(std::uint64_t new_size, Qcow2Preallocation preallocation) {
  const std::uint64_t old_size = size();
  if (new_size < old_size && preallocation != Qcow2Preallocation::off)
    co_await refused("Preallocation can't be used for shrinking an image");
  co_await truncate(new_size);
  if (preallocation != Qcow2Preallocation::off && new_size > old_size) co_await reserve(old_size, preallocation);
}

Task<> Qcow2Driver::reserve(std::uint64_t from, Qcow2Preallocation preallocation, CancelToken interrupted) {
  const std::uint64_t cluster_size = header_.geometry.cluster_size();
  Range rest{align_up(from, cluster_size), 0};
  if (align_up(size(), cluster_size) <= rest.offset) co_return;
  rest.length = align_up(size(), cluster_size) - rest.offset;
  if (header_.geometry.external_data) {
    const Range outside = rest.intersect({0, size()});
    if (!outside.empty()) co_await qcow2::reserve(image_.data(), outside, preallocation, interrupted);
  }
  while (!rest.empty()) {
    if (interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
    const std::uint64_t done = co_await watch(preallocate(rest, preallocation));
    rest = {rest.offset + done, rest.length - done};
  }
  co_await flush();
}

// Gives the first clusters of the range their places; answers how many bytes that was.
Task<std::uint64_t> Qcow2Driver::preallocate(Range range, Qcow2Preallocation how) {
  const Geometry& g = header_.geometry;
  co_await before_change();
  range.length = std::min(range.length, g.slice_span() - range.offset % g.slice_span());
  PendingClusters pending(*this, range);
  RangeLock::Guard& changing = pending.changing();
  co_await changing;
  pending.entries_ = co_await map_.writable_entries_at(range.offset);
  if (pending.entries_[0].has_cluster() || pending.entries_[0].compressed()) co_return g.cluster_size();
  if (g.external_data) co_await place_outside(pending, range, range.length >> g.cluster_bits);
  else co_await place_anew(pending, range.length >> g.cluster_bits);
  const Range place = g.bytes_of(pending.run_);
  pending.range = {range.offset, place.length};
  pending.before = {range.offset, 0};
  pending.after = {pending.range.end(), 0};
  Result<> zeroed;
  if (!g.external_data && !pending.reads_as_zero) zeroed = co_await image_.write_zeroes(place).result();
  if (zeroed && !g.external_data) zeroed = co_await qcow2::reserve(image_.data(), place, how).result();
  if (zeroed) zeroed = pending.commit();
  if (!zeroed) pending.abort();
  co_await unwrap(zeroed);
  co_return place.length;
}

}  // namespace tidemark
