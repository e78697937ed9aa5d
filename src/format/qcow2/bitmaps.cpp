#include "format/qcow2/bitmaps.hpp"

#include <algorithm>
#include <set>

#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

constexpr std::uint64_t table_reserved = 0xff000000000001fe;

Error bad_table(const BitmapEntry& entry) {
  return Error(Errc::corrupt, "qcow2: the table of bitmap '" + entry.name + "' is damaged");
}

}  // namespace

Task<AlignedBuffer> Qcow2Driver::bitmap_directory() {
  const HostOffset at = header_.bitmap_directory_at;
  const std::uint64_t length = header_.bitmap_directory_bytes;
  if (!header_.geometry.cluster_aligned(at.value) || at.value == 0 || length > bitmap_directory_bytes_max ||
      !fits(at.value, length, align_up(image_.size(), header_.geometry.cluster_size())))
    co_await Error(Errc::corrupt, "qcow2: the bitmap directory cannot be where the header says");
  AlignedBuffer directory(length);
  co_await image_.read(at, directory.bytes());
  co_return std::move(directory);
}

Task<std::vector<BitmapEntry>> Qcow2Driver::bitmap_entries() {
  if (!has_bitmaps()) co_return std::vector<BitmapEntry>();
  const AlignedBuffer directory = co_await bitmap_directory();
  co_return co_await unwrap(parse_bitmap_directory(directory.bytes(), header_.bitmaps, header_.geometry, size()));
}

Task<std::vector<std::uint64_t>> Qcow2Driver::bitmap_table(const BitmapEntry& entry) {
  const std::uint64_t bytes = std::uint64_t{entry.table_entries} * entry_bytes;
  const bool bounded = entry.table_entries <= bitmap_bytes_max >> header_.geometry.cluster_bits;
  if (!bounded || !fits(entry.table_at.value, bytes, align_up(image_.size(), header_.geometry.cluster_size())))
    co_await bad_table(entry);
  std::vector<std::uint64_t> table(entry.table_entries);
  co_await image_.read(entry.table_at, Buffers(std::as_writable_bytes(std::span(table))));
  for (std::uint64_t& raw : table) {
    raw = load_be<std::uint64_t>(reinterpret_cast<const std::byte*>(&raw));
    const std::uint64_t at = raw & L2Entry::offset_mask;
    if ((raw & table_reserved) || (at != 0 && (raw & 1)) || !header_.geometry.cluster_aligned(at) || at >= image_.size())
      co_await bad_table(entry);
  }
  co_return std::move(table);
}

Task<DirtyBitmap> Qcow2Driver::load_bitmap(BitmapEntry entry) {
  if (!entry.usable()) co_await Error(Errc::invalid_argument, "Bitmap '" + entry.name + "' is inconsistent and cannot be used");
  co_await unwrap(check_bitmap_entry(entry, size()));
  const auto table = co_await bitmap_table(entry);
  DirtyBitmap bits(size(), std::uint64_t{1} << entry.granularity_bits);
  const std::uint64_t cluster_size = header_.geometry.cluster_size();
  AlignedBuffer chunk(cluster_size);
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    const std::uint64_t done = i * cluster_size, length = std::min(cluster_size, bits.dense_bytes() - done);
    const MutableBytes bytes = chunk.bytes().first(length);
    const HostOffset at{table[i] & L2Entry::offset_mask};
    if (at.value != 0) {
      co_await image_.read(at, Buffers(bytes));
    } else if (table[i] & 1) {
      std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
    } else {
      continue;
    }
    (void)bits.load_chunk(done * 8, bytes);              // what lies behind the disk's end does not matter
  }
  co_return std::move(bits);
}

// Clean clusters take no space.
Task<> Qcow2Driver::write_bitmap(BitmapEntry& entry, const DirtyBitmap& bits, std::vector<HostRun>& taken) {
  const Geometry& g = header_.geometry;
  const std::uint64_t cluster_size = g.cluster_size();
  std::vector<std::uint64_t> table(bitmap_table_entries(g, size(), entry.granularity_bits));
  AlignedBuffer chunk(cluster_size);
  for (std::uint64_t i = 0; i < table.size(); ++i) {
    const std::uint64_t first = i * cluster_size * 8;
    const std::uint64_t granules = std::min(cluster_size * 8, bits.granules() - first);
    if (bits.chunk_fill(first, granules) == DirtyBitmap::Fill::clean) continue;
    bits.store_chunk(first, chunk.bytes());
    const Refcounts::Allocation place = co_await refcounts_.allocate_exactly(1);
    taken.push_back(place.run);
    const HostOffset at = g.offset_of(place.run.first);
    co_await image_.write(at, Buffers(chunk.bytes()));
    table[i] = at.value;
  }
  entry.table_entries = static_cast<std::uint32_t>(table.size());
  for (std::uint64_t& raw : table) store_be(reinterpret_cast<std::byte*>(&raw), std::uint64_t{raw});
  entry.table_at = co_await write_clusters(std::as_bytes(std::span(table)), taken);
}

// Whole clusters side by side, at least one.
Task<HostOffset> Qcow2Driver::write_clusters(Bytes content, std::vector<HostRun>& taken) {
  const Geometry& g = header_.geometry;
  const std::uint64_t clusters = std::max<std::uint64_t>(1, g.clusters_for(content.size()));
  const Refcounts::Allocation place = co_await refcounts_.allocate_exactly(clusters);
  taken.push_back(place.run);
  AlignedBuffer padded(clusters << g.cluster_bits);
  Buffers(padded.bytes()).fill_zero();
  std::copy(content.begin(), content.end(), padded.data());
  const HostOffset at = g.offset_of(place.run.first);
  co_await image_.write(at, Buffers(padded.bytes()));
  co_return at;
}

Task<> Qcow2Driver::free_bitmap(const BitmapEntry& entry) {
  const Geometry& g = header_.geometry;
  const auto table = co_await bitmap_table(entry).result();
  if (!table) co_return;                                 // whose clusters these are nobody knows: they leak
  for (const std::uint64_t raw : *table) {
    const HostRun data{g.cluster_of({raw & L2Entry::offset_mask}), 1};
    if (data.first.index != 0) refcounts_.free_later(data);
  }
  const std::uint64_t clusters = std::max<std::uint64_t>(1, g.clusters_for(table->size() * entry_bytes));
  const HostRun run{g.cluster_of(entry.table_at), clusters};
  refcounts_.free_later(run);
}

Task<> Qcow2Driver::point_at_directory(HostOffset at, std::uint64_t length, std::size_t bitmaps) {
  co_await header_writer_.set(Autoclear::bitmaps, false);
  co_await header_writer_.set_bitmap_directory(at, length, static_cast<std::uint32_t>(bitmaps));
  if (bitmaps != 0) co_await header_writer_.set(Autoclear::bitmaps, true);
}

Result<> Qcow2Driver::check_bitmaps(const std::vector<Qcow2Bitmap>& bitmaps) const {
  if (header_.geometry.version < 3)
    return Error(Errc::unsupported, "Cannot store dirty bitmaps in qcow2 v2 files");
  if (bitmaps.size() > bitmaps_max) return Error(Errc::invalid_argument, "Maximum number of persistent bitmaps is already reached");
  std::vector<BitmapEntry> entries;
  std::set<std::string_view> names;
  for (const Qcow2Bitmap& bitmap : bitmaps) {
    if (!names.insert(bitmap.entry.name).second) return Error(Errc::exists, "Bitmap already exists: " + bitmap.entry.name);
    if (bitmap.bits)
      if (auto ok = check_bitmap_entry(bitmap.entry, size()); !ok) return ok;
    entries.push_back(bitmap.entry);
  }
  if (serialise_bitmap_directory(entries).size() > bitmap_directory_bytes_max)
    return Error(Errc::invalid_argument, "Not enough space in the bitmap directory");
  return {};
}

Task<> Qcow2Driver::store_bitmaps(std::vector<Qcow2Bitmap> bitmaps) {
  co_await unwrap(check_writable());
  co_await unwrap(check_bitmaps(bitmaps));
  co_await before_change();
  const std::vector<BitmapEntry> old = co_await bitmap_entries();
  const HostRun old_directory = header_.bitmap_directory();
  std::vector<HostRun> taken;
  const Result<> written = co_await write_bitmaps(bitmaps, taken).result();
  if (!written) {
    // But for what the header points at, though it may say that nothing of it counts; once it surely says what it says.
    image_.wrote(Stage::data);
    const bool points = !taken.empty() && header_.bitmap_directory().first == taken.back().first;
    for (const HostRun run : taken)
      if (!points) refcounts_.free_later(run);
    co_await written.error();
  }
  for (const BitmapEntry& entry : old) {
    auto same = [&](const Qcow2Bitmap& now) { return now.entry.table_at == entry.table_at; };
    if (std::none_of(bitmaps.begin(), bitmaps.end(), same)) co_await free_bitmap(entry);
  }
  image_.add_metadata(header_.bitmap_directory(), Metadata::bitmap_directory);
  if (!old.empty()) {
    image_.remove_metadata(old_directory);
    refcounts_.free_later(old_directory);
  }
  co_await flush();
}

// And has the header point at them; the directory is the last of what they take.
Task<> Qcow2Driver::write_bitmaps(std::vector<Qcow2Bitmap>& bitmaps, std::vector<HostRun>& taken) {
  std::vector<BitmapEntry> entries;
  for (Qcow2Bitmap& bitmap : bitmaps) {
    if (bitmap.bits) co_await write_bitmap(bitmap.entry, *bitmap.bits, taken);
    entries.push_back(bitmap.entry);
  }
  const std::vector<std::byte> directory = serialise_bitmap_directory(entries);
  HostOffset at;
  if (!entries.empty()) at = co_await write_clusters(directory, taken);
  image_.wrote(Stage::data);
  co_await committer_.flush();
  co_await point_at_directory(at, directory.size(), entries.size());
}

// In place: only flags change, so that each sector says what is true, old or new.
Task<> Qcow2Driver::use_bitmaps() {
  std::vector<BitmapEntry> entries = co_await bitmap_entries();
  if (std::all_of(entries.begin(), entries.end(), [](const BitmapEntry& entry) { return entry.in_use(); })) co_return;
  for (BitmapEntry& entry : entries) entry.flags |= BitmapEntry::in_use_flag;
  std::vector<std::byte> directory = serialise_bitmap_directory(entries);
  if (directory.size() > align_up(header_.bitmap_directory_bytes, 8))
    co_await Error(Errc::corrupt, "qcow2: the bitmap directory is damaged: it is shorter than its entries");
  directory.resize(header_.bitmap_directory_bytes);
  co_await image_.write(header_.bitmap_directory_at, Buffers(MutableBytes(directory)));
  co_await image_.flush();
}

Task<> Qcow2Driver::drop_bitmaps() { return header_writer_.set(Autoclear::bitmaps, false); }

Task<> Qcow2Driver::set_tracked(std::uint32_t store) {
  const std::uint64_t number = store & ~(std::uint32_t{1} << 31);
  return header_writer_.set_autoclear(tracked_mask, static_cast<std::uint64_t>(Autoclear::tracked) | number << 32);
}

Task<> Qcow2Driver::set_untracked() { return header_writer_.set_autoclear(tracked_mask, 0); }

std::uint32_t Qcow2Driver::tracked_by() const noexcept {
  return static_cast<std::uint32_t>(header_.autoclear >> 32) & ~(std::uint32_t{1} << 31);
}

}  // namespace tidemark
