#include "tracking/load.hpp"

#include <algorithm>

#include "task/group.hpp"
#include "tracking/coverage.hpp"
#include "tracking/log_scan.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint64_t window_bytes = 512 * KiB;

// Segments in the order of their places, through a window.
class Loader {
 public:
  Loader(StoreFile& file, std::uint64_t store_id, std::uint64_t size) : file_(file), store_id_(store_id), size_(size) {}

  bool as_stored = true;

  // Adds a table to `bits`; what is damaged is dirtied and told.
  Task<> load(const SegmentTable& table, DirtyBitmap& bits, DirtyBitmap* damaged) {
    SegmentTable ordered = table;
    const auto by_place = [](const Segment& a, const Segment& b) { return a.position < b.position; };
    std::sort(ordered.begin(), ordered.end(), by_place);
    for (const Segment& segment : ordered) {
      if (range_of(bits, segment).offset >= size_) continue;
      const Bytes bytes = co_await bytes_of(segment);
      if (load_segment(bits, segment, bytes, store_id_)) continue;
      as_stored = false;
      const Range range = range_of(bits, segment);
      bits.set(range);
      if (damaged) damaged->set(range);
    }
  }

 private:
  // None when they cannot be read.
  Task<Bytes> bytes_of(const Segment& segment) {
    const Range wanted{segment.position, segment.length};
    if (wanted.empty()) co_return Bytes();
    if (wanted.offset < at_.offset || wanted.end() > at_.end()) {
      const Range window{align_down(wanted.offset, page), window_bytes};
      auto read = co_await file_.read(window).result();
      at_ = read ? window : Range{};
      if (!read) co_return Bytes();
      window_ = *std::move(read);
    }
    co_return Bytes(window_.bytes()).subspan(wanted.offset - at_.offset, wanted.length);
  }

  static constexpr std::uint64_t page = 4096;
  StoreFile& file_;
  std::uint64_t store_id_, size_;
  Range at_;
  AlignedBuffer window_;
};

Task<std::unique_ptr<NodeBitmap>> load_bitmap(StoreFile& file, const Superblock& root, const CatalogueEntry& entry, std::uint64_t size,
                                              Rule broken, bool& as_stored) {
  auto bitmap = std::make_unique<NodeBitmap>(entry.name, entry.size, static_cast<std::uint32_t>(entry.granularity));
  bitmap->set_persistent(true);
  bitmap->set_enabled(entry.enabled);
  bitmap->set_follows(entry.follows);
  bitmap->set_carried(entry.carried);
  if (!entry.inconsistent.empty()) bitmap->set_inconsistent(entry.inconsistent);
  DirtyBitmap suspected(entry.size, entry.granularity);
  Loader loader(file, root.store_id, bitmap->inconsistent() ? 0 : size);
  for (const auto part : {CatalogueEntry::bits, CatalogueEntry::successor}) {
    const bool left_out = part == CatalogueEntry::bits && broken == Rule::recover_frozen && entry.frozen;
    if (!left_out) co_await loader.load(entry.tables[part], bitmap->bits(), &suspected);
  }
  co_await loader.load(entry.tables[CatalogueEntry::suspected], suspected, nullptr);
  intersect(suspected, bitmap->bits());
  bitmap->suspect(suspected);
  as_stored = as_stored && loader.as_stored && !entry.frozen;
  co_return std::move(bitmap);
}

// Some bitmaps side by side, so that one's bits are put where they belong while another's are read.
class SideBySide {
 public:
  SideBySide(StoreFile& file, const Superblock& root, const Catalogue& catalogue, std::uint64_t size, Rule broken)
      : file_(file), root_(root), entries_(catalogue.entries), size_(size), broken_(broken), loaded_(entries_.size()) {}

  Task<LoadedBitmaps> load() {
    const auto lanes = std::min(lanes_max, entries_.size());
    const auto all = [this, lanes](TaskGroup& group) -> Task<> {
      for (std::size_t n = 0; n < lanes; ++n) group.spawn(lane());
      co_await group.join();
    };
    co_await with_group(file_.file().reactor(), all);
    co_return std::move(loaded_);
  }

  bool as_stored = true;

 private:
  Task<> lane() {
    while (next_ < entries_.size()) {
      const std::size_t mine = next_++;
      loaded_[mine] = co_await load_bitmap(file_, root_, entries_[mine], size_, broken_, as_stored);
    }
  }

  static constexpr std::size_t lanes_max = 4;                  // each with a window
  StoreFile& file_;
  const Superblock& root_;
  const std::vector<CatalogueEntry>& entries_;
  const std::uint64_t size_;
  Rule broken_;
  LoadedBitmaps loaded_;
  std::size_t next_ = 0;
};

}  // namespace

Task<LoadedBitmaps> load_bitmaps(StoreFile& file, const Superblock& root, const Catalogue& catalogue, std::uint64_t size,
                                 Rule broken, bool& as_stored) {
  SideBySide loading(file, root, catalogue, size, broken);
  LoadedBitmaps bitmaps = co_await loading.load();
  as_stored = loading.as_stored;
  co_return std::move(bitmaps);
}

Task<CrashTraces> read_crash_traces(StoreFile& file, const Superblock& root, Rule broken) {
  CrashTraces traces;
  if (root.lost) traces.broken = "the store had failed";
  const std::uint64_t epochs = broken == Rule::recover_both_epochs ? 1 : 2;
  for (std::uint64_t epoch = root.log_epoch; epoch < root.log_epoch + epochs && !traces.broken; ++epoch) {
    const Range half{root.half_start(epoch), root.log_bytes};
    const auto read = co_await file.read(half).result();
    if (!read) {
      traces.broken = read.error().message();
      break;
    }
    LogScan scan = scan_log(read->bytes(), root.store_id, epoch);
    traces.broken = std::move(scan.broken);
    traces.ranges.insert(traces.ranges.end(), scan.ranges.begin(), scan.ranges.end());
  }
  co_return std::move(traces);
}

void mark_traces(LoadedBitmaps& bitmaps, const CrashTraces& traces, std::uint64_t size) {
  for (auto& bitmap : bitmaps) {
    const std::uint64_t before = bitmap->bits().size();
    bitmap->truncate(size);
    if (!bitmap->recording()) continue;
    DirtyBitmap left(size, bitmap->granularity());
    const Range disk{0, size};
    if (traces.broken) left.set_all();
    for (const Range range : traces.ranges)
      if (range.overlaps(disk)) left.set(range.intersect(disk));
    if (size > before) left.set({before, size - before});
    subtract(left, bitmap->bits());
    bitmap->bits().merge(left);
    bitmap->suspect(left);
  }
}

}  // namespace tidemark::tracking
