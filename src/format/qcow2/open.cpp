// Opening: the header, then the tables that stay in memory.
#include <algorithm>

#include "block/node.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

std::size_t slices(std::uint64_t cache_bytes, const Geometry& g) {
  return static_cast<std::size_t>(std::max<std::uint64_t>(16, cache_bytes / g.slice_size()));
}

}  // namespace

Qcow2Driver::Qcow2Driver(std::unique_ptr<Edge> file, Header header, const Qcow2OpenOptions& options)
    : MappedDriver(file->node().reactor()),
      file_(std::move(file)),
      header_(std::move(header)),
      read_only_(options.read_only),
      keeps_content_(options.keeps_content),
      image_(*file_, header_.geometry),
      header_writer_(home(), image_, header_),
      frees_(pins()),
      refcounts_(home(), image_, header_writer_, frees_,
                 slices(options.refcount_cache_bytes, header_.geometry), options.pass_discards),
      map_(home(), image_, refcounts_, header_writer_, slices(options.l2_cache_bytes, header_.geometry)),
      committer_(home(), image_,
                 {refcounts_.blocks(), refcounts_.table(), map_.l2(), map_.l1(), frees_}, options.write_order),
      changing_(home()) {}

Task<Header> Qcow2Driver::read_header(Edge& file) {
  const std::uint64_t file_size = file.size();
  AlignedBuffer start(std::min<std::uint64_t>(file_size, sector_size));
  co_await file.read(0, start.bytes());
  const std::uint64_t cluster_size = co_await unwrap(first_cluster_size(start.bytes()));
  AlignedBuffer cluster(std::min(file_size, cluster_size));
  co_await file.read(0, cluster.bytes());
  co_return co_await unwrap(parse_header(cluster.bytes(), file_size));
}

Task<std::unique_ptr<Qcow2Driver>> Qcow2Driver::open(std::unique_ptr<Edge> file, Qcow2OpenOptions options) {
  Header header = co_await read_header(*file);
  co_await unwrap(check_supported(header, options.read_only));
  std::unique_ptr<Qcow2Driver> driver(new Qcow2Driver(std::move(file), std::move(header), options));
  co_await driver->load();
  co_return driver;
}

Task<> Qcow2Driver::load() {
  co_await map_.load(header_);
  if (!read_only_) co_await prepare_to_write();
}

// Everything that is metadata is known before the first write, so that none goes there; features
// that hold only while all writers know them are switched off.
Task<> Qcow2Driver::prepare_to_write() {
  const HostRun header_cluster{{0}, 1};
  co_await unwrap(image_.claim_metadata(header_cluster, "header"));
  co_await image_.complete_last_cluster();
  co_await refcounts_.load(header_.refcount_table_at, header_.refcount_table_clusters);
  co_await unwrap(map_.claim_tables());
  const auto bitmaps = static_cast<std::uint64_t>(Autoclear::bitmaps);
  const std::uint64_t kept = keeps_content_ && header_.has_bitmaps ? header_.autoclear & bitmaps : 0;
  if (header_.autoclear != kept) co_await header_writer_.set_autoclear(kept);
}

}  // namespace tidemark
