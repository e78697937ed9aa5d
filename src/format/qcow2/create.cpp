// A new image: [header][refcount table][refcount blocks][L1 table], and nothing else.  One of no size has no L1 table.
//
// The header is written last, after all that it points at is durable: an image that was not finished
// is none.
#include <algorithm>
#include <cerrno>

#include "block/node.hpp"
#include "format/qcow2/driver.hpp"
#include "format/qcow2/refcount_slice.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

struct Layout {
  std::uint64_t table_clusters = 1, blocks = 1, l1_clusters = 0;
  std::uint64_t total() const noexcept { return 1 + table_clusters + blocks + l1_clusters; }
};

Error bad_option(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

Result<> check_version(const Qcow2CreateOptions& o) {
  constexpr const char* newer = " (use version=v3 or greater)";
  if (o.version < 2 || o.version > 3) return bad_option("qcow2: version must be 2 or 3");
  if (!is_power_of_two(o.refcount_bits) || o.refcount_bits > 64)
    return bad_option("Refcount width must be a power of two and may not exceed 64 bits");
  if (o.version >= 3) return {};
  if (o.refcount_bits != 16)
    return bad_option(std::string("Different refcount widths than 16 bits require compatibility "
                                  "level 1.1 or above") + newer);
  if (o.lazy_refcounts)
    return bad_option(std::string("Lazy refcounts only supported with compatibility level 1.1 and above") + newer);
  if (o.compression != CompressionType::zlib)
    return bad_option(std::string("Non-zlib compression type is only supported with compatibility level 1.1 "
                                  "and above") + newer);
  return {};
}

Result<> check(const Qcow2CreateOptions& o) {
  if (!is_power_of_two(o.cluster_size) || o.cluster_size < 512 || o.cluster_size > 2 * MiB)
    return bad_option("Cluster size must be a power of two between 512 and 2048k");
  if (!is_aligned(o.size, sector_size)) return bad_option("Image size must be a multiple of 512 bytes");
  if (o.backing_file.empty() && !o.backing_format.empty())
    return bad_option("Backing format cannot be used without backing file");
  if (o.backing_file.size() > name_bytes_max) return bad_option("Backing file name too long");
  if (auto ok = check_version(o); !ok) return ok;
  Geometry g;
  g.cluster_bits = log2_of(o.cluster_size);
  if (o.size > offset_limit || l1_entries_for(g, o.size) * entry_bytes > l1_bytes_max)
    return Error(Errc::no_space, "The image size is too large for file format 'qcow2' "
                                 "(try using a larger cluster size)", EFBIG);
  return {};
}

Header header_of(const Qcow2CreateOptions& o) {
  Header h;
  h.geometry = {o.version, log2_of(o.cluster_size), log2_of(o.refcount_bits)};
  h.size = o.size;
  h.l1_entries = static_cast<std::uint32_t>(l1_entries_for(h.geometry, o.size));
  h.compression = o.compression;
  if (o.compression != CompressionType::zlib) h.incompatible = static_cast<std::uint64_t>(Incompatible::compression);
  if (o.lazy_refcounts) h.compatible = static_cast<std::uint64_t>(Compatible::lazy_refcounts);
  h.backing_name = o.backing_file;
  h.backing_format = o.backing_format;
  return h;
}

Layout lay_out(const Header& h) {
  const Geometry& g = h.geometry;
  Layout layout;
  layout.l1_clusters = g.clusters_for(h.l1_entries * entry_bytes);
  for (;;) {                             // more blocks may need a larger table, and that more blocks
    const std::uint64_t blocks = div_up(layout.total(), g.block_entries());
    const std::uint64_t table_clusters = g.clusters_for(blocks * entry_bytes);
    if (blocks <= layout.blocks && table_clusters <= layout.table_clusters) return layout;
    layout.blocks = std::max(layout.blocks, blocks);
    layout.table_clusters = std::max(layout.table_clusters, table_clusters);
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
  const std::uint64_t first_block = (1 + layout.table_clusters) << g.cluster_bits;
  AlignedBuffer table(align_up(layout.blocks * entry_bytes, sector_size));
  Buffers(table.bytes()).fill_zero();
  AlignedBuffer block(g.cluster_size());
  for (std::uint64_t i = 0; i < layout.blocks; ++i) {
    const std::uint64_t at = first_block + (i << g.cluster_bits);
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

}  // namespace

Task<> Qcow2Driver::create(Edge& file, const Qcow2CreateOptions& options) {
  co_await unwrap(check(options));
  Header header = header_of(options);
  const Geometry& g = header.geometry;
  const Layout layout = lay_out(header);
  header.refcount_table_at = g.offset_of({1});
  header.refcount_table_clusters = static_cast<std::uint32_t>(layout.table_clusters);
  if (layout.l1_clusters > 0) header.l1_at = g.offset_of({1 + layout.table_clusters + layout.blocks});
  std::vector<std::byte> first = co_await unwrap(serialise_header(header));
  co_await prepare_file(file, layout.total() << g.cluster_bits);
  co_await write_refcounts(file, g, layout);
  co_await file.flush();
  co_await file.write(0, MutableBytes(first));
  co_await file.flush();
}

}  // namespace tidemark
