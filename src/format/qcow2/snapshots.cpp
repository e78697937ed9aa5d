// Internal snapshots: made, applied and deleted as one change of the header each (next_tables.hpp).
#include <algorithm>
#include <charconv>

#include "format/qcow2/driver.hpp"
#include "format/qcow2/tables/next_tables.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

Tree tree_of(const Header& h) { return {h.l1_at, h.l1_entries}; }
Tree tree_of(const SnapshotEntry& s) { return {s.l1_at, s.l1_entries}; }

void show(Header& header, Tree tree) {
  header.l1_at = tree.l1_at;
  header.l1_entries = static_cast<std::uint32_t>(tree.l1_entries);
}

std::uint64_t number_of(const std::string& id) {
  std::uint64_t number = 0;
  std::from_chars(id.data(), id.data() + id.size(), number);
  return number;
}

// How many tables there may be.
std::uint64_t tables_in(const Geometry& g, Tree tree) { return tree.l1_entries + g.clusters_for(tree.l1_entries * entry_bytes); }

}  // namespace

std::vector<Qcow2Snapshot> Qcow2Driver::snapshots() const { return {snapshots_.begin(), snapshots_.end()}; }

// An id counts more than a name that looks like one.
Result<std::size_t> Qcow2Driver::find_snapshot(std::string_view id_or_name) const {
  for (const bool by_id : {true, false})
    for (std::size_t i = 0; i < snapshots_.size(); ++i)
      if ((by_id ? snapshots_[i].id : snapshots_[i].name) == id_or_name) return i;
  return Error(Errc::not_found, "Can't find snapshot '" + std::string(id_or_name) + "'");
}

Result<> Qcow2Driver::check_new_snapshot(const Qcow2Snapshot& wanted) const {
  if (header_.geometry.external_data)
    return Error(Errc::unsupported, "qcow2: images with an external data file cannot have internal snapshots");
  if (snapshots_.size() >= snapshots_max) return Error(Errc::no_space, "qcow2: there are 65536 snapshots, and can be no more");
  if (wanted.id.size() > 0xffff || wanted.name.size() > 0xffff)
    return Error(Errc::invalid_argument, "qcow2: the snapshot's name is too long");
  for (const SnapshotEntry& s : snapshots_)
    if (s.id == wanted.id) return Error(Errc::exists, "Snapshot with id '" + wanted.id + "' already exists");
  return {};
}

Task<> Qcow2Driver::create_snapshot(Qcow2Snapshot wanted) {
  std::uint64_t last = 0;
  for (const SnapshotEntry& s : snapshots_) last = std::max(last, number_of(s.id));
  if (wanted.id.empty()) wanted.id = std::to_string(last + 1);
  co_await unwrap(check_new_snapshot(wanted));
  SnapshotEntry entry;
  static_cast<Qcow2Snapshot&>(entry) = std::move(wanted);
  entry.vm_state_bytes = 0;
  entry.disk_size = size();
  const SnapshotChange change = [&entry](NextTables& next, Header& header, SnapshotTable& table) -> Task<> {
    // The snapshot takes the tables as they are.
    const Tree present = tree_of(header);
    entry.l1_at = present.l1_at;
    entry.l1_entries = static_cast<std::uint32_t>(present.l1_entries);
    co_await next.share_data(present);
    show(header, co_await next.copy(present, present.l1_entries));
    table.push_back(entry);
  };
  co_await change_snapshots(change);
}

Task<> Qcow2Driver::apply_snapshot(std::string id_or_name) {
  const std::size_t which = co_await unwrap(find_snapshot(id_or_name));
  const SnapshotEntry& applied = snapshots_[which];
  // An image may say anything.
  if (applied.disk_size > offset_limit || l1_entries_for(header_.geometry, applied.disk_size) > l1_bytes_max / entry_bytes)
    co_await Error(Errc::corrupt, "qcow2: snapshot '" + applied.name + "' cannot be applied: no disk of this image can have " +
                                      std::to_string(applied.disk_size) + " bytes");
  const std::uint64_t l1_entries = l1_entries_for(header_.geometry, applied.disk_size);
  const SnapshotChange change = [which, l1_entries](NextTables& next, Header& header, SnapshotTable& table) -> Task<> {
    const SnapshotEntry& wanted = table[which];
    co_await next.share_data(tree_of(wanted));
    co_await next.drop(tree_of(header));
    header.size = wanted.disk_size;
    show(header, co_await next.copy(tree_of(wanted), l1_entries));
  };
  co_await change_snapshots(change, l1_entries);
}

Task<> Qcow2Driver::delete_snapshot(std::string id_or_name) {
  const std::size_t which = co_await unwrap(find_snapshot(id_or_name));
  const SnapshotChange change = [which](NextTables& next, Header& header, SnapshotTable& table) -> Task<> {
    co_await next.drop(tree_of(table[which]));
    table.erase(table.begin() + static_cast<std::ptrdiff_t>(which));
    show(header, co_await next.replace(tree_of(header)));
  };
  co_await change_snapshots(change);
}

// `l1_entries`: of an L1 table that will be made, where it may be longer than any there is.
Task<> Qcow2Driver::change_snapshots(const SnapshotChange& change, std::uint64_t l1_entries) {
  co_await unwrap(check_writable());
  co_await before_change();
  co_await flush();
  NextTables::Image image{home(), image_, refcounts_, committer_, header_writer_};
  NextTables next(image);
  const Result<> changed = co_await watch(change_tables(next, change, l1_entries)).result();
  if (!changed) {
    next.abandon();
    co_await changed.error();
  }
  if (!has(pass_discards_, DiscardCause::snapshot)) co_return;
  for (const HostRun run : next.freed()) {
    const Range freed = header_.geometry.bytes_of(run).intersect({0, image_.size()});
    if (!freed.empty()) (void)co_await image_.discard(freed).result();
  }
}

Task<> Qcow2Driver::change_tables(NextTables& next, const SnapshotChange& change, std::uint64_t l1_entries) {
  const Geometry& g = header_.geometry;
  Header header = header_;
  SnapshotTable table = snapshots_;
  std::uint64_t tables = tables_in(g, tree_of(header_));
  for (const SnapshotEntry& s : snapshots_) tables = std::max(tables, tables_in(g, tree_of(s)));
  co_await next.begin(tables + g.clusters_for(l1_entries * entry_bytes));
  co_await change(next, header, table);
  const HostRun old{g.cluster_of(header_.snapshots_at), g.clusters_for(stored_bytes(snapshots_))};
  if (!snapshots_.empty()) co_await next.drop(old);
  const std::string bytes = serialise(table);
  header.snapshots = static_cast<std::uint32_t>(table.size());
  header.snapshots_at = {};
  if (!table.empty()) header.snapshots_at = g.offset_of((co_await next.store(as_bytes(bytes))).first);
  co_await commit_tables(next, header);
}

// What takes the old tables' place in memory is read before the header points at it: from then on nothing can fail,
// or what is written after would go by tables that are not the image's any more.
Task<> Qcow2Driver::commit_tables(NextTables& next, Header header) {
  TopTable l1(image_);
  co_await l1.load(header.l1_at, header.l1_entries);
  SnapshotTable snapshots = co_await read_snapshot_table(image_, header);
  const std::vector<HostCluster> inactive = co_await inactive_l2_tables(snapshots);
  co_await next.commit(header);
  image_.set_geometry(header_.geometry);
  image_.forget_metadata();
  map_.adopt(l1.at(), l1.entries());
  snapshots_ = std::move(snapshots);
  co_await unwrap(claim_metadata());
  look_after(inactive);
}

}  // namespace tidemark
