#include "format/qcow2/tables/next_tables.hpp"

#include <set>

namespace tidemark::qcow2 {
namespace {

constexpr std::size_t cache_slices = 256;

}  // namespace

NextTables::NextTables(Image image, std::optional<std::uint32_t> refcount_order)
    : file_(image.file), present_(image.refcounts), committer_(image.committer), header_writer_(image.header_writer),
      no_frees_(no_pins_),
      next_(image.executor, image.file, image.header_writer, no_frees_, cache_slices, causes(DiscardCause::never)) {
  next_.take_space_from(present_);
  if (refcount_order) next_.set_order(*refcount_order);
}

// The table is long enough for what is there, and as much again for what will be taken.
Task<> NextTables::begin(std::uint64_t tables) {
  const Geometry& g = next_.geometry();
  present_.frees().hold();
  const std::uint64_t per_cluster = g.cluster_size() / entry_bytes;
  const std::uint64_t there = file_.used_end() >> g.cluster_bits;
  const std::uint64_t clusters = there + 2 * (tables + div_up(there, g.block_entries() / 2)) + 64;
  const bool as_wide = g.refcount_order == present_.geometry().refcount_order;
  const std::uint64_t least = as_wide ? present_.table().size() : 0;
  const std::uint64_t entries = align_up(std::max(least, div_up(clusters, g.block_entries())), per_cluster);
  if (entries * entry_bytes > refcount_table_bytes_max)
    co_await Error(Errc::no_space, "qcow2: the refcount table would exceed 8 MiB");
  const HostRun table = co_await allocate(entries / per_cluster);
  next_.adopt_table(g.offset_of(table.first), std::vector<std::uint64_t>(entries));
  if (as_wide) co_await copy_counts();
  else co_await convert_counts();
}

// Taking space may itself add blocks.
Task<> NextTables::copy_counts() {
  std::vector<HostRun> places;
  const auto blocks = [this] {
    std::uint64_t count = 0;
    for (const std::uint64_t entry : present_.table().entries()) count += entry != 0;
    return count;
  };
  while (places.size() < blocks()) {
    const Refcounts::Allocation place = co_await present_.allocate(1);
    places.push_back(place.run);
    taken_.push_back(place.run);
  }
  co_await committer_.write_back();
  std::vector<std::uint64_t> next = next_.table().entries();
  std::size_t used = 0;
  for (std::uint64_t i = 0; i < present_.table().size(); ++i) {
    if (present_.table()[i] == 0) continue;
    const HostOffset from{align_down(present_.table()[i], 512)};
    co_await copy_block(from, places[used]);
    next[i] = file_.geometry().offset_of(places[used++].first).value;
  }
  next_.adopt_table(next_.table().at(), std::move(next));
}

Task<> NextTables::convert_counts() {
  const std::uint64_t per_block = present_.geometry().block_entries();
  const std::uint64_t file_bytes = file_.used_end();
  for (std::uint64_t block = 0; block < present_.table().size(); ++block) {
    if (present_.table()[block] == 0) continue;
    for (std::uint64_t i = 0; i < per_block; ++i) {
      const HostCluster cluster{block * per_block + i};
      const std::uint64_t users = co_await present_.count(cluster);
      if (users != 0) co_await next_.assign(cluster, users);
      if (next_.blocks().pressed()) co_await write_out();
    }
    const std::uint64_t done = (block + 1) * per_block << present_.geometry().cluster_bits;
    if (progress_) progress_(std::min(done, file_bytes), file_bytes);
  }
}

Task<> NextTables::copy_block(HostOffset from, HostRun to) {
  const Geometry& g = file_.geometry();
  AlignedBuffer bytes(g.cluster_size());
  co_await file_.read(from, bytes.bytes());
  co_await file_.write(g.offset_of(to.first), bytes.bytes());
}

// In use by both: the present refcounts keep it from being handed out again, the next ones will count it.
Task<HostRun> NextTables::allocate(std::uint64_t clusters) {
  // The table itself is counted with all that is there when it is made.
  const bool counted_with_all = next_.table().size() == 0;
  std::vector<HostRun>* const too_short = counted_with_all ? nullptr : &taken_;
  const Refcounts::Allocation found = co_await present_.allocate_exactly(clusters, too_short);
  taken_.push_back(found.run);
  if (!counted_with_all) co_await next_.raise(found.run);
  co_return found.run;
}

Task<> NextTables::count(HostRun run, bool raise) {
  if (raise) co_await next_.raise(run);
  else co_await next_.lower_now(run, freed_);
  if (next_.blocks().pressed()) co_await write_out();
}

Task<> NextTables::drop(HostRun run) { return count(run, false); }

Task<std::vector<std::uint64_t>> NextTables::read_words(HostOffset at, std::uint64_t count) {
  AlignedBuffer raw(count * entry_bytes);
  co_await file_.read(at, raw.bytes());
  std::vector<std::uint64_t> words(count);
  for (std::uint64_t i = 0; i < count; ++i) words[i] = load_be<std::uint64_t>(raw.data() + i * entry_bytes);
  co_return words;
}

Task<> NextTables::check_l2(HostOffset at) {
  if (!file_.geometry().cluster_aligned(at.value) || at.value >= file_.size())
    co_await file_.corrupt("an L2 table lies at " + std::to_string(at.value));
}

Task<> NextTables::change_data(HostOffset l2_at, bool raise) {
  const Geometry& g = file_.geometry();
  co_await check_l2(l2_at);
  const std::vector<std::uint64_t> words = co_await read_words(l2_at, g.cluster_size() / entry_bytes);
  for (std::uint64_t i = 0; i < words.size(); i += g.l2_entry_words()) {
    const L2Entry entry = L2Entry::decode(g, words[i], 0);
    if (entry.has_cluster() && !g.cluster_aligned(entry.host().value))
      co_await file_.corrupt("a cluster lies at " + std::to_string(entry.host().value));
    const HostRun data = clusters_of(entry, g);
    if (data.count != 0) co_await count(data, raise);
  }
}

Task<> NextTables::share_data(Tree tree) {
  const std::vector<std::uint64_t> l1 = co_await read_words(tree.l1_at, tree.l1_entries);
  for (const std::uint64_t entry : l1)
    if (const HostOffset at{entry & L2Entry::offset_mask}; at.value != 0) co_await change_data(at, true);
}

Task<> NextTables::drop(Tree tree) {
  const Geometry& g = file_.geometry();
  const std::vector<std::uint64_t> l1 = co_await read_words(tree.l1_at, tree.l1_entries);
  for (const std::uint64_t entry : l1) {
    const HostOffset at{entry & L2Entry::offset_mask};
    if (at.value == 0) continue;
    co_await change_data(at, false);
    const HostRun table{g.cluster_of(at), 1};
    co_await count(table, false);
  }
  const HostRun l1_run{g.cluster_of(tree.l1_at), g.clusters_for(tree.l1_entries * entry_bytes)};
  if (l1_run.count != 0) co_await count(l1_run, false);
}

// Whether anything changed.
Task<bool> NextTables::mark_own(std::vector<std::uint64_t>& words) {
  const Geometry& g = file_.geometry();
  bool changed = false;
  for (std::uint64_t i = 0; i < words.size(); i += g.l2_entry_words()) {
    const L2Entry entry = L2Entry::decode(g, words[i], 0);
    if (!entry.has_cluster()) continue;
    const std::uint64_t users = co_await next_.count(g.cluster_of(entry.host()));
    const std::uint64_t marked = users == 1 ? words[i] | L2Entry::copied_flag : words[i] & ~L2Entry::copied_flag;
    changed = changed || marked != words[i];
    words[i] = marked;
  }
  co_return changed;
}

// The L1 entry of the copy.
Task<std::uint64_t> NextTables::copy_l2(HostOffset at, bool replaced) {
  const Geometry& g = file_.geometry();
  co_await check_l2(at);
  std::vector<std::uint64_t> words = co_await read_words(at, g.cluster_size() / entry_bytes);
  const bool changed = co_await mark_own(words);
  if (replaced && !changed) {
    const std::uint64_t users = co_await next_.count(g.cluster_of(at));
    co_return at.value | (users == 1 ? L2Entry::copied_flag : 0);
  }
  const HostRun place = co_await store_words(words);
  const HostRun old{g.cluster_of(at), 1};
  if (replaced) co_await count(old, false);
  co_return g.offset_of(place.first).value | L2Entry::copied_flag;
}

Task<Tree> NextTables::copy_tree(Tree tree, std::uint64_t l1_entries, bool replaced) {
  const Geometry& g = file_.geometry();
  std::vector<std::uint64_t> l1 = co_await read_words(tree.l1_at, tree.l1_entries);
  for (std::uint64_t& entry : l1) {
    const HostOffset at{entry & L2Entry::offset_mask};
    if (at.value != 0) entry = co_await copy_l2(at, replaced);
  }
  l1.resize(std::max(l1.size(), l1_entries));
  Tree made{{}, l1.size()};
  if (!l1.empty()) made.l1_at = g.offset_of((co_await store_words(l1)).first);
  const HostRun old{g.cluster_of(tree.l1_at), g.clusters_for(tree.l1_entries * entry_bytes)};
  if (replaced && old.count != 0) co_await count(old, false);
  co_return made;
}

Task<Tree> NextTables::copy(Tree tree, std::uint64_t l1_entries) { return copy_tree(tree, l1_entries, false); }
Task<Tree> NextTables::replace(Tree tree) { return copy_tree(tree, tree.l1_entries, true); }

Task<HostRun> NextTables::store_words(const std::vector<std::uint64_t>& words) {
  std::vector<std::byte> bytes(words.size() * entry_bytes);
  for (std::size_t i = 0; i < words.size(); ++i) store_be(bytes.data() + i * entry_bytes, words[i]);
  co_return co_await store(bytes);
}

Task<HostRun> NextTables::store(Bytes bytes) {
  const Geometry& g = file_.geometry();
  const HostRun place = co_await allocate(g.clusters_for(bytes.size()));
  AlignedBuffer padded(place.count << g.cluster_bits);
  Buffers(padded.bytes()).fill_zero();
  std::copy(bytes.begin(), bytes.end(), padded.data());
  co_await file_.write(g.offset_of(place.first), padded.bytes());
  co_return place;
}

// What was given back since begin(): a table that a larger one replaced, pieces that were too short.
Task<> NextTables::drop_held() {
  const std::vector<FreeList::Freed> held = present_.frees().held();
  for (const FreeList::Freed& freed : held)
    for (std::uint64_t i = 0; i < freed.run.count; ++i) {
      const HostRun cluster{{freed.run.first.index + i}, 1};
      const std::uint64_t users = co_await next_.count(cluster.first);
      if (users != 0) co_await count(cluster, false);    // else it came and went after the copy
    }
}

// Blocks that were added since the copy was made are not in it.
Task<> NextTables::drop_present_refcounts() {
  const Geometry& g = file_.geometry();
  const std::vector<std::uint64_t> blocks = present_.table().entries();
  for (const std::uint64_t entry : blocks) {
    const HostRun block{g.cluster_of({align_down(entry, 512)}), 1};
    if (entry == 0) continue;
    const std::uint64_t users = co_await next_.count(block.first);
    if (users != 0) co_await count(block, false);
  }
  const HostRun table{g.cluster_of(present_.table().at()), g.clusters_for(present_.table().size() * entry_bytes)};
  const std::uint64_t users = co_await next_.count(table.first);
  if (users != 0) co_await count(table, false);
}

Task<> NextTables::write_out() {
  std::vector<TableWrite> writes;
  next_.blocks().take(writes);
  Result<> written;
  for (TableWrite& write : writes)
    if (written) written = co_await file_.write(write.at, write.bytes.bytes()).result();
  next_.blocks().settle(written.ok());
  co_await unwrap(written);
}

Task<> NextTables::commit(Header next) {
  co_await drop_held();
  co_await drop_present_refcounts();
  co_await write_out();
  const std::vector<std::uint64_t> table = next_.table().entries();
  co_await next_.table().write_copy(next_.table().at(), table);
  next.refcount_table_at = next_.table().at();
  next.refcount_table_clusters = static_cast<std::uint32_t>(file_.geometry().clusters_for(table.size() * entry_bytes));
  co_await header_writer_.set_tables(next);
  present_.become(next_);
  present_.frees().forget();
  next_.adopt_table({}, {});
  taken_.clear();
}

// The next refcounts may have taken clusters by themselves, for new blocks.
void NextTables::abandon() {
  present_.frees().release();
  std::set<HostCluster> taken;
  for (const HostRun run : taken_) {
    present_.free_later(run);
    taken.insert(run.first);
  }
  for (const std::uint64_t entry : next_.table().entries()) {
    const HostRun block{file_.geometry().cluster_of({align_down(entry, 512)}), 1};
    if (entry == 0 || taken.contains(block.first)) continue;
    file_.remove_metadata(block);
    present_.free_later(block);
  }
}

}  // namespace tidemark::qcow2
