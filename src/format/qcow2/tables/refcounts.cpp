#include "format/qcow2/tables/refcounts.hpp"

#include <algorithm>

#include "format/qcow2/layout/refcount_slice.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t block_offset(std::uint64_t table_entry) { return align_down(table_entry, 512); }

}  // namespace

Task<> Refcounts::load(HostOffset table_at, std::uint64_t table_clusters) {
  forget();
  file_.tell(DebugEvent::reftable_load);
  co_await table_.load(table_at, table_clusters * (geometry_.cluster_size() / entry_bytes));
}

void Refcounts::become(Refcounts& other) noexcept {
  forget();
  geometry_.refcount_order = other.geometry_.refcount_order;
  table_.replace(other.table_.at(), other.table_.entries());
}

void Refcounts::forget() noexcept {
  blocks_.forget_all();
  next_ = {};
  packed_end_ = {};
}

Result<> Refcounts::claim_tables() {
  const Geometry& g = geometry_;
  const HostRun table{g.cluster_of(table_.at()), table_.size() / (g.cluster_size() / entry_bytes)};
  if (auto ok = file_.claim_metadata(table, Metadata::refcount_table); !ok) return ok;
  for (const std::uint64_t entry : table_.entries()) {
    const std::uint64_t at = block_offset(entry);
    if (at == 0 || at >= offset_limit) continue;         // found out when it is used
    if (auto ok = file_.claim_metadata({g.cluster_of({at}), 1}, Metadata::refcount_block); !ok) return ok;
  }
  return {};
}

Refcounts::Place Refcounts::place_of(HostCluster cluster) const noexcept {
  const Geometry& g = geometry_;
  Place place;
  place.block = cluster.index / g.block_entries();
  const std::uint64_t in_block = cluster.index % g.block_entries();
  place.entry = in_block % g.block_slice_entries();
  place.left = g.block_slice_entries() - place.entry;
  const std::uint64_t at = place.block < table_.size() ? block_offset(table_[place.block]) : 0;
  if (at != 0) place.slice_at = HostOffset{at} + in_block / g.block_slice_entries() * g.block_slice_size();
  return place;
}

// The slice with a count that exists; the place of one that does not is corrupt.
Task<TableCache::Pin> Refcounts::slice_of(Place place) {
  const std::uint64_t at = place.block < table_.size() ? block_offset(table_[place.block]) : 0;
  if (at == 0)
    co_await file_.corrupt("refcount block " + std::to_string(place.block) + " does not exist");
  if (!geometry_.cluster_aligned(at) || at >= file_.size())
    co_await file_.corrupt("refcount block " + std::to_string(place.block) + " lies at " + std::to_string(at));
  co_return co_await blocks_.get(place.slice_at);
}

std::uint64_t Refcounts::get(const TableCache::Slice& slice, std::uint64_t entry) const noexcept {
  return refcount_entry(slice.data(), entry, geometry_.refcount_order);
}

void Refcounts::put(TableCache::Slice& slice, std::uint64_t entry, std::uint64_t count) {
  set_refcount_entry(slice.writable(), entry, geometry_.refcount_order, count);
  blocks_.changed(slice);
}

Task<std::uint64_t> Refcounts::count(HostCluster cluster) {
  const Place place = place_of(cluster);
  if (place.slice_at.value == 0) co_return 0;
  const TableCache::Pin slice = co_await slice_of(place);
  co_return get(*slice, place.entry);
}

std::optional<Refcounts::Allocation> Refcounts::allocate_now(std::uint64_t want) {
  for (;;) {
    const Place place = place_of(next_);
    TableCache::Slice* const slice = place.slice_at.value != 0 ? blocks_.find(place.slice_at) : nullptr;
    if (!slice) return {};
    std::uint64_t entry = place.entry, left = place.left;
    for (; left != 0 && get(*slice, entry) != 0; ++entry, --left) ++next_.index;
    if (left == 0) continue;
    const std::uint64_t clusters = file_.size() >> geometry_.cluster_bits;
    if (next_.index >= clusters) return {};
    const std::uint64_t room = std::min({want, left, clusters - next_.index});
    HostRun run{next_, 1};
    while (run.count < room && get(*slice, entry + run.count) == 0) ++run.count;
    if (file_.is_metadata(geometry_.bytes_of(run))) {
      (void)file_.corrupt("a cluster of metadata at or behind cluster " + std::to_string(run.first.index) +
                          " has refcount 0");
      return {};
    }
    for (std::uint64_t i = 0; i < run.count; ++i) put(*slice, entry + i, 1);
    next_.index += run.count;
    return Allocation{run, file_.take(run)};
  }
}

Task<Refcounts::Allocation> Refcounts::allocate(std::uint64_t want) {
  file_.tell(DebugEvent::cluster_alloc);
  if (const auto now = allocate_now(want)) co_return *now;
  const auto turn = co_await growing_.lock();
  for (;;) {
    if (const auto now = allocate_now(want)) co_return *now;
    if (file_.corruption()) co_await *file_.corruption();
    co_await unwrap(file_.intact());
    co_await make_ready(want);
  }
}

// Does the one thing that allocate_now() was missing.
Task<> Refcounts::make_ready(std::uint64_t want) {
  const HostCluster before = next_;
  const auto a_little = [] { return true; };
  co_await apply_frees(a_little);
  if (next_ < before) co_return;
  const Place place = place_of(next_);
  if (place.block >= table_.size()) {
    co_await grow_table(place.block);
  } else if (place.slice_at.value == 0) {
    co_await add_block(place.block);
  } else if (!blocks_.find(place.slice_at)) {
    (void)co_await slice_of(place);
  } else {
    const HostRun wanted{next_, std::min(want, place.left)};
    co_await file_.grow(geometry_.bytes_of(wanted).end());
  }
}

Task<Refcounts::Allocation> Refcounts::allocate_exactly(std::uint64_t count, std::vector<HostRun>* too_short) {
  // What one refcount block counts, itself not among it, is free in one piece sooner or later; more never is.
  if (count >= file_.geometry().block_entries()) co_return co_await allocate_with_blocks(count);
  const auto leave = [&](HostRun run) {
    if (too_short) too_short->push_back(run);
    else free_later(run);
  };
  Allocation all = co_await allocate(count);
  while (all.run.count < count) {
    const Result<Allocation> more = co_await allocate(count - all.run.count).result();
    if (!more) {
      leave(all.run);
      co_await more.error();
    }
    if (more->run.first.index == all.run.first.index + all.run.count) {
      all.run.count += more->run.count;
      all.reads_as_zero = all.reads_as_zero && more->reads_as_zero;
    } else {
      leave(all.run);
      all = *more;
    }
  }
  co_return all;
}

// The cluster that packed data ends in takes one reference more.  False when it cannot.
Task<bool> Refcounts::share_packed(HostOffset at) {
  const Place place = place_of(geometry_.cluster_of(at));
  const TableCache::Pin slice = co_await slice_of(place);
  const std::uint64_t count = get(*slice, place.entry);
  if (packed_end_ != at || count == 0 || count >= geometry_.refcount_max()) co_return false;
  put(*slice, place.entry, count + 1);
  co_return true;
}

Task<HostOffset> Refcounts::allocate_bytes(std::uint64_t length) {
  const Geometry& g = geometry_;
  file_.tell(DebugEvent::cluster_alloc_bytes);
  const auto turn = co_await packing_.lock();
  HostOffset at = packed_end_;
  const std::uint64_t left = g.cluster_aligned(at.value) ? 0 : g.cluster_size() - g.in_cluster(at.value);
  bool shared = false;
  if (length <= left) shared = co_await share_packed(at);
  if (!shared) {
    const Allocation more = co_await allocate(1);
    const bool adjacent = left != 0 && length > left && more.run.first.index == g.cluster_of(at).index + 1;
    if (adjacent) shared = co_await share_packed(at);
    if (!shared) at = g.offset_of(more.run.first);
  }
  packed_end_ = at + length;
  co_return at;
}

}  // namespace tidemark::qcow2
