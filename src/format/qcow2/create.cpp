// A new image: [header][refcount table][refcount blocks][L1 table], and nothing else; one that is preallocated goes
// on with [L2 tables][data].  One of no size has no L1 table.
//
// The header is written last, after all that it points at is durable: an image that was not finished
// is none.
#include <algorithm>
#include <cerrno>

#include "block/node.hpp"
#include "format/qcow2/create_options.hpp"
#include "format/qcow2/layout/refcount_slice.hpp"
#include "format/qcow2/preallocate.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

// In clusters, one behind the other.
struct Layout {
  std::uint64_t table = 1, blocks = 1, l1 = 0, l2 = 0, data = 0;
  std::uint64_t first_block() const noexcept { return 1 + table; }
  std::uint64_t first_l1() const noexcept { return first_block() + blocks; }
  std::uint64_t first_l2() const noexcept { return first_l1() + l1; }
  std::uint64_t first_data() const noexcept { return first_l2() + l2; }
  std::uint64_t total() const noexcept { return first_data() + data; }
};

Layout lay_out(const Header& h, Qcow2Preallocation preallocation) {
  const Geometry& g = h.geometry;
  Layout layout;
  layout.l1 = g.clusters_for(h.l1_entries * entry_bytes);
  if (preallocation != Qcow2Preallocation::off) {
    layout.l2 = h.l1_entries;
    layout.data = g.external_data ? 0 : g.clusters_for(h.size);
  }
  for (;;) {                             // more blocks may need a larger table, and that more blocks
    const std::uint64_t blocks = div_up(layout.total(), g.block_entries());
    const std::uint64_t table = g.clusters_for(blocks * entry_bytes);
    if (blocks <= layout.blocks && table <= layout.table) return layout;
    layout.blocks = std::max(layout.blocks, blocks);
    layout.table = std::max(layout.table, table);
  }
}

// Empties the file and makes it `length` zero bytes; a device must be long enough.
Task<> prepare_file(Edge& file, std::uint64_t length) {
  Result<> emptied = co_await file.truncate(0).result();
  if (emptied) emptied = co_await file.truncate(length).result();
  if (emptied) co_return;
  if (emptied.error().code() != Errc::unsupported) co_await emptied.error();
  if (file.size() < length)
    co_await Error(Errc::no_space, "qcow2: '" + file.node().name() + "' is too small for an image of this size",
                   ENOSPC);
  const Range all{0, length};
  co_await file.write_zeroes(all);
}

Task<> write_refcounts(Edge& file, const Geometry& g, const Layout& layout) {
  AlignedBuffer table(align_up(layout.blocks * entry_bytes, sector_size));
  Buffers(table.bytes()).fill_zero();
  AlignedBuffer block(g.cluster_size());
  for (std::uint64_t i = 0; i < layout.blocks; ++i) {
    const std::uint64_t at = (layout.first_block() + i) << g.cluster_bits;
    store_be(table.data() + i * entry_bytes, at);
    Buffers(block.bytes()).fill_zero();
    const std::uint64_t counted = i * g.block_entries();
    const std::uint64_t ones = std::min(g.block_entries(), layout.total() - std::min(layout.total(), counted));
    for (std::uint64_t entry = 0; entry < ones; ++entry)
      set_refcount_entry(block.data(), entry, g.refcount_order, 1);
    co_await file.write(at, block.bytes());
  }
  co_await file.write(g.cluster_size(), table.bytes());
}

// Every cluster of the disk has its place, in order.  Over a backing file the place holds nothing yet.
Task<> write_map(Edge& file, const Header& h, const Layout& layout) {
  const Geometry& g = h.geometry;
  const Subclusters stored = h.backing_name.empty() ? all_subclusters(g) : 0;
  AlignedBuffer l1(align_up(h.l1_entries * entry_bytes, sector_size)), l2(g.cluster_size());
  Buffers(l1.bytes()).fill_zero();
  std::uint64_t guest = 0, left = g.clusters_for(h.size);
  for (std::uint64_t i = 0; i < h.l1_entries; ++i) {
    const std::uint64_t at = (layout.first_l2() + i) << g.cluster_bits;
    store_be(l1.data() + i * entry_bytes, at | L2Entry::copied_flag);
    Buffers(l2.bytes()).fill_zero();
    for (std::uint64_t n = 0; n < g.l2_entries() && left != 0; ++n, ++guest, --left) {
      const HostCluster place{g.external_data ? guest : layout.first_data() + guest};
      const L2Entry entry = L2Entry::of_data(g.offset_of(place), stored);
      std::byte* const to = l2.data() + n * g.l2_entry_words() * entry_bytes;
      store_be(to, entry.word(g));
      if (g.extended_l2) store_be(to + entry_bytes, entry.bitmap());
    }
    co_await file.write(at, l2.bytes());
  }
  co_await file.write(layout.first_l1() << g.cluster_bits, l1.bytes());
}

Task<> prepare_data_file(Edge& data, std::uint64_t size, Qcow2Preallocation preallocation, CancelToken interrupted) {
  const std::uint64_t length = align_up(size, sector_size);
  Result<> emptied = co_await data.truncate(0).result();
  if (emptied) emptied = co_await data.truncate(length).result();
  if (!emptied && (emptied.error().code() != Errc::unsupported || data.size() < length)) co_await emptied.error();
  const Range all{0, length};
  if (!emptied) co_await data.write_zeroes(all);
  co_await reserve(data, all, preallocation, interrupted);
  co_await data.flush();
}

}  // namespace

Task<> Qcow2Driver::create(Edge& file, Qcow2CreateOptions options, Edge* data_file) {
  // A raw data file shows the whole disk, so all of it must be the data file's to say.
  if (options.data_file_raw && options.preallocation == Qcow2Preallocation::off)
    options.preallocation = Qcow2Preallocation::metadata;
  co_await unwrap(check(options));
  if (options.data_file.empty() != (data_file == nullptr))
    co_await Error(Errc::invalid_argument, "qcow2: an external data file needs both a node and a name");
  Header header = header_of(options);
  const Geometry& g = header.geometry;
  const Layout layout = lay_out(header, options.preallocation);
  if (layout.table << g.cluster_bits > refcount_table_bytes_max)
    co_await Error(Errc::no_space, "qcow2: the refcount table would exceed 8 MiB", EFBIG);
  header.refcount_table_at = g.offset_of({1});
  header.refcount_table_clusters = static_cast<std::uint32_t>(layout.table);
  if (layout.l1 > 0) header.l1_at = g.offset_of({layout.first_l1()});
  std::vector<std::byte> first = co_await unwrap(serialise_header(header));
  co_await prepare_file(file, layout.total() << g.cluster_bits);
  if (data_file) co_await prepare_data_file(*data_file, header.size, options.preallocation, options.interrupted);
  const Range data{layout.first_data() << g.cluster_bits, layout.data << g.cluster_bits};
  if (!data.empty()) co_await qcow2::reserve(file, data, options.preallocation, options.interrupted);
  co_await write_refcounts(file, g, layout);
  if (layout.l2 != 0) co_await write_map(file, header, layout);
  co_await file.flush();
  co_await file.write(0, MutableBytes(first));
  co_await file.flush();
}

}  // namespace tidemark
