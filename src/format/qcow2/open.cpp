// Opening: the header, then the tables that stay in memory.
#include <algorithm>

#include "block/node.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

std::size_t slices(std::uint64_t cache_bytes, std::uint64_t slice_bytes) {
  return static_cast<std::size_t>(std::max<std::uint64_t>(16, cache_bytes / slice_bytes));
}

Header with_slices(Header header, const Qcow2OpenOptions& options) {
  header.geometry.l2_slice_max = options.l2_slice_bytes.value_or(header.geometry.l2_slice_max);
  return header;
}

}  // namespace

Qcow2Driver::Qcow2Driver(std::unique_ptr<Edge> file, Header header, const Qcow2OpenOptions& options)
    : MappedDriver(file->node().reactor()),
      file_(std::move(file)),
      header_(with_slices(std::move(header), options)),
      read_only_(options.read_only),
      shows_snapshot_(!options.snapshot.empty()),
      keeps_content_(options.keeps_content),
      bitmaps_follow_(options.bitmaps_follow),
      options_(options),
      keeps_discarded_(options.discard_no_unref),
      marks_first_(options.write_order.must_precede(Stage::dirty_mark, Stage::l2_tables)),
      lazy_(options.lazy_refcounts.value_or(header_.has(Compatible::lazy_refcounts)) && header_.geometry.version >= 3),
      pass_discards_(options.pass_discards),
      cache_clean_interval_(options.cache_clean_interval),
      caches_cleaned_(home().reactor().now()),
      image_(*file_, header_.geometry),
      header_writer_(home(), image_, header_, options.write_order),
      frees_(pins()),
      refcounts_(home(), image_, header_writer_, frees_,
                 slices(cache_sizes(options.caches, header_.geometry)->refcount, header_.geometry.block_slice_size()),
                 options.pass_discards),
      map_(home(), image_, refcounts_, header_writer_,
           slices(cache_sizes(options.caches, header_.geometry)->l2, header_.geometry.slice_size())),
      committer_(home(), image_,
                 {refcounts_.blocks(), refcounts_.table(), map_.l2(), map_.l1(), frees_}, options.write_order),
      codecs_(home(), header_.compression),
      changing_(home()),
      resizing_data_file_(home()),
      showing_file_(home()) {
  image_.set_overlap_checks(options.overlap_checks);
  // Where blocks are is not postponed: only what they count can be found out again.
  if (lazy_) committer_.postpone(bit(Stage::refcount_blocks));
}

Result<> Qcow2Driver::check_options(const Header& header, const Qcow2OpenOptions& options) {
  const Geometry& g = header.geometry;
  const std::uint64_t slice = options.l2_slice_bytes.value_or(512);
  if (!is_power_of_two(slice) || slice < 512 || slice > g.cluster_size())
    return Error(Errc::invalid_argument, "L2 cache entry size must be a power of two between 512 and the cluster size (" +
                                             std::to_string(g.cluster_size()) + ")");
  if (options.discard_no_unref && g.version < 3)
    return Error(Errc::invalid_argument, "discard-no-unref is only supported since qcow2 version 3");
  if (options.lazy_refcounts.value_or(false) && g.version < 3)
    return Error(Errc::invalid_argument,
                 "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
  if (auto sizes = cache_sizes(options.caches, g); !sizes) return sizes.error();
  if (g.external_data && !options.data_file_follows)
    return Error(Errc::unsupported, "'data-file' is required for this image");
  return {};
}

void Qcow2Driver::set_data_file(std::unique_ptr<Edge> data_file) noexcept {
  TM_ASSERT(needs_data_file());
  data_file_ = std::move(data_file);
  image_.set_data_file(data_file_.get());
}

Task<Header> Qcow2Driver::read_header(Edge& file) {
  const std::uint64_t file_size = file.size();
  AlignedBuffer start(std::min<std::uint64_t>(file_size, sector_size));
  co_await file.read(0, start.bytes());
  const std::uint64_t cluster_size = co_await unwrap(first_cluster_size(start.bytes()));
  AlignedBuffer cluster(std::min(file_size, cluster_size));
  co_await file.read(0, cluster.bytes());
  co_return co_await unwrap(parse_header(cluster.bytes(), file_size));
}

// Of an image that was not closed: what its tables use is what counts.
Task<Header> Qcow2Driver::read_repaired(Edge& file, const Qcow2OpenOptions& options) {
  CheckOptions checking;
  checking.repair = Repair::all;
  const CheckReport report = co_await check_image(file, std::move(checking));
  if (report.corruptions + report.check_errors != 0) {
    const std::string why = report.messages.empty() ? "it has too many references" : report.messages.front();
    co_await Error(Errc::corrupt, "qcow2: it was not closed and cannot be repaired: " + why);
  }
  Header header = co_await read_header(file);
  co_return with_slices(std::move(header), options);
}

Task<std::unique_ptr<Qcow2Driver>> Qcow2Driver::open(std::unique_ptr<Edge> file, Qcow2OpenOptions options) {
  Header header = co_await read_header(*file);
  co_await unwrap(check_supported(header, options.read_only));
  co_await unwrap(check_options(header, options));
  if (header.has(Incompatible::dirty) && !options.read_only) header = co_await read_repaired(*file, options);
  std::unique_ptr<Qcow2Driver> driver(new Qcow2Driver(std::move(file), std::move(header), options));
  co_await driver->load(options.snapshot);
  co_return driver;
}

Task<> Qcow2Driver::load(std::string snapshot) {
  snapshots_ = co_await read_snapshot_table(image_, header_);
  if (!snapshot.empty()) co_await show_snapshot(std::move(snapshot));
  co_await map_.load(header_);
  if (!read_only_) co_await prepare_to_write();
}

// Everything that is metadata is known before the first write, so that none goes there; features
// that hold only while all writers know them are switched off.
Task<> Qcow2Driver::prepare_to_write() {
  image_.watch();
  file_shown_ = given_up_ = false;
  co_await image_.complete_last_cluster();
  co_await refcounts_.load(header_.refcount_table_at, header_.refcount_table_clusters);
  co_await unwrap(claim_metadata());             // snapshots that claim one place for two tables are read no further
  const std::vector<HostCluster> inactive = co_await inactive_l2_tables(snapshots_);
  look_after(inactive);
  std::uint64_t kept = header_.data_file_raw() ? static_cast<std::uint64_t>(Autoclear::data_file_raw) : 0;
  if ((keeps_content_ || bitmaps_follow_) && header_.has_bitmaps) kept |= static_cast<std::uint64_t>(Autoclear::bitmaps);
  if (bitmaps_follow_ && header_.has(Autoclear::tracked)) kept |= tracked_mask;
  co_await header_writer_.keep_autoclear(kept);
}

Result<> Qcow2Driver::claim_metadata() {
  const HostRun header_cluster{{0}, 1};
  if (auto ok = image_.claim_metadata(header_cluster, Metadata::main_header); !ok) return ok;
  if (auto ok = refcounts_.claim_tables(); !ok) return ok;
  if (auto ok = map_.claim_tables(); !ok) return ok;
  const Geometry& g = header_.geometry;
  const HostRun table{g.cluster_of(header_.snapshots_at), g.clusters_for(stored_bytes(snapshots_))};
  if (auto ok = image_.claim_metadata(table, Metadata::snapshot_table); !ok) return ok;
  if (auto ok = image_.claim_metadata(header_.bitmap_directory(), Metadata::bitmap_directory); !ok) return ok;
  for (const SnapshotEntry& snapshot : snapshots_) {
    const HostRun l1{g.cluster_of(snapshot.l1_at), g.clusters_for(snapshot.l1_entries * entry_bytes)};
    if (auto ok = image_.claim_metadata(l1, Metadata::inactive_l1); !ok) return ok;
  }
  return {};
}

// Snapshots and the disk share L2 tables: what is looked after already is so still.
void Qcow2Driver::look_after(const std::vector<HostCluster>& inactive_l2) {
  for (const HostCluster l2 : inactive_l2) image_.add_metadata({l2, 1}, Metadata::inactive_l2);
}

// Of all snapshots, where they are looked after.
Task<std::vector<HostCluster>> Qcow2Driver::inactive_l2_tables(const SnapshotTable& snapshots) {
  std::vector<HostCluster> tables;
  std::size_t distinct = 0;
  if (!has(image_.overlap_checks(), Metadata::inactive_l2)) co_return tables;
  TopTable l1(image_);
  for (const SnapshotEntry& snapshot : snapshots) {
    co_await l1.load(snapshot.l1_at, snapshot.l1_entries);
    for (const std::uint64_t entry : l1.entries())
      if (const HostOffset at{entry & L2Entry::offset_mask}; at.value != 0) tables.push_back(header_.geometry.cluster_of(at));
    if (tables.size() < 2 * distinct) continue;
    std::sort(tables.begin(), tables.end());     // they share most
    tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
    distinct = tables.size();
  }
  co_return tables;
}

// The disk is as it was then, to be read.
Task<> Qcow2Driver::show_snapshot(std::string id_or_name) {
  const SnapshotEntry& shown = snapshots_[co_await unwrap(find_snapshot(id_or_name))];
  if (!read_only_) co_await Error(Errc::invalid_argument, "qcow2: a snapshot can only be opened read-only");
  if (shown.disk_size > offset_limit || shown.l1_entries < l1_entries_for(header_.geometry, shown.disk_size))
    co_await Error(Errc::corrupt, "qcow2: the L1 table of snapshot '" + shown.name + "' is too small");
  header_.l1_at = shown.l1_at;
  header_.l1_entries = shown.l1_entries;
  header_.size = shown.disk_size;
}

}  // namespace tidemark
