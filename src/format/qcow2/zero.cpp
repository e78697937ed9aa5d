// Zeroes and discards: changes of the map alone, but for a raw data file, which shows them itself.
#include <algorithm>

#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

Task<> Qcow2Driver::write_zeroes(Range range, WriteFlags flags) {
  // Version 2 cannot say "reads as zeroes"; without a backing file, open or not, saying nothing does.
  const bool free = has(flags, WriteFlags::may_unmap);
  if (header_.geometry.version < 3 && (stands_on_another() || !free))
    co_await Error(Errc::unsupported, "qcow2: zero clusters need version 3");
  const bool in_file = header_.data_file_raw();
  if (in_file) co_await zero_data_file(range, flags);
  const Zeroing how = in_file ? Zeroing::in_file : free ? Zeroing::free_clusters : Zeroing::keep_clusters;
  co_await watch(zero_clusters(range.narrowed(header_.geometry.subcluster_size()), how));
  co_await give_back_if_much();
}

Task<> Qcow2Driver::discard(Range range) {
  if (header_.geometry.version < 3 && stands_on_another())
    co_await Error(Errc::unsupported, "qcow2: discarding over a backing file needs version 3");
  range = range.narrowed(header_.geometry.cluster_size());
  const bool in_file = header_.data_file_raw();
  if (in_file) co_await zero_data_file(range, WriteFlags::may_unmap);
  const Zeroing how = in_file ? Zeroing::in_file : Zeroing::discard;
  co_await watch(zero_clusters(range, how));
  co_await give_back_if_much();
}

Task<> Qcow2Driver::zero_data_file(Range range, WriteFlags flags) {
  if (range.empty()) co_return;
  co_await unwrap(check_writable());
  co_await grow_data_file(range.end());
  co_await data_file_->write_zeroes(range, flags);
}

// A data file keeps what is there: guests may be reading it still, and what copy-on-read stores comes to the same place.
Task<> Qcow2Driver::uncover(Range range) {
  const std::uint64_t cluster = header_.geometry.cluster_size();
  if (range.end() == size()) range.length = align_up(range.end(), cluster) - range.offset;
  range = range.narrowed(cluster);
  co_await watch(zero_clusters(range, Zeroing::uncover));
}

Task<> Qcow2Driver::empty() {
  image_.tell(DebugEvent::empty_image_prepare);
  const Range all{0, size()};
  co_await uncover(all);
  co_await flush();
  if (!header_.geometry.external_data) co_return;        // a cluster's place there is its own: nobody else needs it
  const Range stored = all.intersect({0, image_.data().size()});
  const WriteFlags quickly = WriteFlags::may_unmap | WriteFlags::no_fallback;
  if (!stored.empty()) (void)co_await image_.data().write_zeroes(stored, quickly).result();
}

// The range is aligned to subclusters.
Task<> Qcow2Driver::zero_clusters(Range range, Zeroing how) {
  const Geometry& g = header_.geometry;
  constexpr unsigned slices_a_turn = 64;
  const bool needs_table = zeroed(L2Entry(), all_subclusters(g), how) == L2Entry();      // where there is none nothing changes
  const auto pinned = pin();
  for (unsigned taken = 0; !range.empty(); ++taken) {
    if (taken % slices_a_turn == slices_a_turn - 1) co_await home().reactor().yield();
    if (needs_table) {
      const std::uint64_t next = map_.next_table(range.offset, range.end());
      range = {next, range.end() - next};
      if (range.empty()) break;
    }
    co_await unwrap(check_writable());
    co_await before_change();
    const std::uint64_t to_end = g.slice_span() - range.offset % g.slice_span();
    const Range part{range.offset, std::min(range.length, to_end)};
    co_await zero_slice(part, how);
    range = {part.end(), range.length - part.length};
  }
}

Task<> Qcow2Driver::zero_slice(Range range, Zeroing how) {
  const Geometry& g = header_.geometry;
  const Range clusters = range.widened(g.cluster_size());
  const std::uint64_t count = clusters.length >> g.cluster_bits;
  auto changing = changing_.hold(clusters, RangeLock::Mode::exclusive);
  co_await changing;
  // A look first: often nothing changes, and then no L2 table need be made.
  bool changes = false;
  {
    const ClusterMap::Entries present = co_await map_.entries_at(clusters.offset);
    for (std::uint64_t i = 0; i < count && !changes; ++i) {
      const L2Entry entry = present ? present[i] : L2Entry();
      changes = zeroed(entry, part_of_cluster(clusters.offset + i * g.cluster_size(), range), how) != entry;
    }
  }
  if (!changes) co_return;
  ClusterMap::Entries entries = co_await map_.writable_entries_at(clusters.offset);
  for (std::uint64_t i = 0; i < count; ++i) {
    const Range cluster{clusters.offset + i * g.cluster_size(), g.cluster_size()};
    const L2Entry old = entries[i], now = zeroed(old, part_of_cluster(cluster.offset, range), how);
    if (now == old) continue;
    if (!map_.valid(cluster.offset, old)) co_await map_.invalid(cluster.offset, old);
    if (old.compressed() && now.has_cluster())
      co_await Error(Errc::unsupported, "qcow2: part of a compressed cluster cannot be zeroed");
    if (image_.loss()) co_await *image_.loss();      // while this waited
    map_.set(entries, i, now);
    if (!now.has_cluster()) map_.release(old, DiscardCause::request);
    if (how != Zeroing::keep_clusters && how != Zeroing::uncover) co_await pass_discard(cluster, old, now);
  }
}

Subclusters Qcow2Driver::part_of_cluster(std::uint64_t cluster, Range range) const noexcept {
  const Geometry& g = header_.geometry;
  const Range part = Range{cluster, g.cluster_size()}.intersect(range);
  return subcluster_range(g.subcluster_of(part.offset), g.subcluster_of(part.end() - 1) + 1);
}

// What an entry becomes when a part of its cluster is to read as zeroes.
L2Entry Qcow2Driver::zeroed(L2Entry entry, Subclusters part, Zeroing how) const noexcept {
  const Geometry& g = header_.geometry;
  const Subclusters all = all_subclusters(g);
  const bool stored = entry.compressed() || entry.has_cluster();
  // What is not stored reads as zeroes already, unless something shows from below.
  if (how == Zeroing::cut_off && !stored) return entry;
  if ((how == Zeroing::discard || how == Zeroing::in_file) && !stored && (!backing_ || (entry.zeroes() & part) == part)) return entry;
  if (how == Zeroing::uncover) return L2Entry();
  if (how == Zeroing::forget) return entry.zeroes() != 0 ? L2Entry() : entry;
  // What is in a raw data file is said there alone: a write that is under way there, too, would be hidden else.
  if (how == Zeroing::in_file && entry.has_cluster()) return entry.with_zeroes(part & ~entry.allocated());
  if (g.version < 3) return L2Entry();
  if (!entry.has_cluster() && part == all) return L2Entry::of_zeroes(all);
  if (entry.compressed()) return L2Entry::of_data({}, 0);          // cannot be: the caller refuses
  const L2Entry now = entry.with_zeroes(part);
  const bool keep = entry.owned() && (how == Zeroing::keep_clusters || (how != Zeroing::cut_off && keeps_discarded_));
  // A cluster that others share cannot be kept as the place of later writes.
  return now.allocated() == 0 && !keep ? now.without_cluster() : now;
}

// Clusters that are not counted, or go on being counted, give their space back at once: what is read from there
// until the map is durable is zeroes, as the guest may expect.  Advisory.
Task<> Qcow2Driver::pass_discard(Range cluster, L2Entry old, L2Entry now) {
  const bool keeps_place = now.has_cluster() ? now.allocated() == 0 && old.allocated() != 0
                                             : header_.geometry.external_data && old.has_cluster();
  if (!keeps_place || !old.owned() || !has(pass_discards_, DiscardCause::request)) co_return;
  Range host{old.host().value, cluster.length};
  host = host.intersect({0, image_.data().size()});
  const WriteFlags quickly = WriteFlags::may_unmap | WriteFlags::no_fallback;
  if (!host.empty()) (void)co_await image_.data().write_zeroes(host, quickly).result();
}

}  // namespace tidemark
