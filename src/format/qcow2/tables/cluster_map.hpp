// ClusterMap: the L1 table and the L2 tables: where the guest's clusters lie.
//
// What is read from the file is checked where it is used: an entry whose place cannot be is an error
// (Errc::corrupt), never an access.  The caller excludes changes of one cluster by others while it
// changes it; the map changes tables in memory only, new L2 tables excepted.
#pragma once

#include "block/types.hpp"
#include "format/qcow2/layout/l2_entry.hpp"
#include "format/qcow2/tables/committer.hpp"
#include "format/qcow2/tables/refcounts.hpp"

namespace tidemark::qcow2 {

class ClusterMap {
 public:
  ClusterMap(Executor& executor, ImageFile& file, Refcounts& refcounts, HeaderWriter& header,
             std::size_t cache_slices)
      : file_(file), refcounts_(refcounts), header_(header), l1_(file),
        l2_(executor, file, DebugEvent::l2_load, file.geometry().slice_size(), cache_slices),
        creating_(executor) {}

  Task<> load(const Header& header);
  // Another L1 table took the place of this one, with other L2 tables.
  void adopt(HostOffset at, std::vector<std::uint64_t> entries) noexcept;
  // The tables are metadata nobody else may touch; for images that will be written to.
  Result<> claim_tables();
  TopTable& l1() noexcept { return l1_; }
  TableCache& l2() noexcept { return l2_; }

  // The first extent of `wanted`; none when its L2 table is not in memory, or wrong.
  std::optional<Extent> find_now(Range wanted) noexcept;
  Task<Extent> find(Range wanted);
  // The first bytes of `wanted` that may be overwritten where they are.
  std::optional<Extent> owned_now(Range wanted) noexcept;

  // Part of one L2 table, with the position of a guest offset in it.  Without a slice: no table.
  struct Entries {
    TableCache::Pin slice;
    const Geometry* geometry = nullptr;
    std::uint64_t first = 0;
    std::uint64_t left = 0;              // entries from `first` to the slice's end
    bool owned = false;                  // the table is nobody else's

    explicit operator bool() const noexcept { return static_cast<bool>(slice); }
    L2Entry operator[](std::uint64_t i) const noexcept { return read_entry(*geometry, *slice, first + i); }
  };
  Task<Entries> entries_at(std::uint64_t guest);
  // The first offset from `guest` on that has a table; `end` when none below it has.
  std::uint64_t next_table(std::uint64_t guest, std::uint64_t end) const noexcept;
  // The same to be changed: makes the table, or a copy of one that is shared.
  Task<Entries> writable_entries_at(std::uint64_t guest);
  void set(Entries& entries, std::uint64_t i, L2Entry entry) {
    const Geometry& g = file_.geometry();
    const std::uint64_t at = (entries.first + i) * g.l2_entry_words();
    entries.slice->set_entry(at, entry.word(g));
    if (g.extended_l2) entries.slice->set_entry(at + 1, entry.bitmap());
    l2_.changed(*entries.slice);
  }
  // What the entry referred to is no longer used by it.
  void release(L2Entry entry, DiscardCause cause);

  // An entry of this guest cluster that may be followed.
  bool valid(std::uint64_t guest, L2Entry entry) const noexcept;
  Error invalid(std::uint64_t guest, L2Entry entry);

  // The end of what the L1 table has entries for.
  std::uint64_t reach() const noexcept { return l1_.size() * file_.geometry().l2_span(); }
  // Room for guest offsets below `size`.
  Task<> grow_l1(std::uint64_t size, Committer& committer);

 private:
  static constexpr std::uint64_t l1_offset_mask = L2Entry::offset_mask;
  std::uint64_t l1_raw(std::uint64_t guest) const noexcept;
  HostOffset slice_at(std::uint64_t table, std::uint64_t guest) const noexcept;
  Task<> check_table(std::uint64_t guest);
  Extent unmapped(Range wanted) const noexcept;
  Range within_slice(Range wanted) const noexcept;
  std::optional<Extent> extent_of(const TableCache::Slice& slice, Range wanted) const noexcept;
  void cut_at_file_end(Extent& extent) const noexcept;
  static L2Entry read_entry(const Geometry& g, const TableCache::Slice& slice, std::uint64_t i) noexcept {
    if (!g.extended_l2) return L2Entry::decode(g, slice.entry(i), 0);
    return L2Entry::decode(g, slice.entry(2 * i), slice.entry(2 * i + 1));
  }
  Entries position(TableCache::Pin slice, std::uint64_t guest, bool owned) const noexcept;
  Task<> make_table(std::uint64_t guest);
  Task<> write_longer_l1(HostOffset at, const std::vector<std::uint64_t>& entries, Committer& committer);
  Task<> fill_table(Refcounts::Allocation place, std::uint64_t copy_of);

  ImageFile& file_;
  Refcounts& refcounts_;
  HeaderWriter& header_;
  TopTable l1_;
  TableCache l2_;
  Mutex creating_;                       // of L2 tables, and growth of L1
};

}  // namespace tidemark::qcow2
