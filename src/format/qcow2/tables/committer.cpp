#include "format/qcow2/tables/committer.hpp"

#include <algorithm>

#include "task/group.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr int writers_max = 8;
constexpr std::uint64_t write_bytes_max = 1 * MiB;

DebugEvent event_of(Stage stage) noexcept {
  switch (stage) {
    case Stage::refcount_blocks: return DebugEvent::refblock_update_part;
    case Stage::refcount_table: return DebugEvent::refblock_alloc_hookup;
    case Stage::l2_tables: return DebugEvent::l2_update;
    case Stage::l1_table: return DebugEvent::l1_update;
    case Stage::data:
    case Stage::frees:
    case Stage::dirty_mark:
    case Stage::header: break;                   // no tables
  }
  TM_ASSERT(false);
}

// Adjacent slices become one write.
class Writes {
 public:
  Writes(ImageFile& file, std::vector<TableWrite>& all) : file_(file), all_(all) {
    std::sort(all_.begin(), all_.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
  }
  bool done() const noexcept { return next_ == all_.size(); }

  Task<> worker() {
    std::vector<iovec> pieces;
    while (!done()) {
      const HostOffset at = all_[next_].at;
      std::uint64_t length = 0;
      for (pieces.clear(); !done() && all_[next_].at == at + length && length < write_bytes_max; ++next_) {
        pieces.push_back({all_[next_].bytes.data(), all_[next_].bytes.size()});
        length += all_[next_].bytes.size();
      }
      const Buffers from(pieces);
      co_await file_.write(at, from);
    }
  }

 private:
  ImageFile& file_;
  std::vector<TableWrite>& all_;
  std::size_t next_ = 0;
};

}  // namespace

Task<> Committer::flush() {
  if (idle()) co_return co_await file_.flush();
  const std::uint64_t needed = started_ + 1;     // one that begins from now on
  while (durable_ < needed) {
    if (running_) co_await ended_.wait();
    else co_await run(true);
  }
}

Task<> Committer::write_back() {
  if (running_) co_return co_await ended_.wait();
  const StageSet postponed = std::exchange(postponed_, StageSet{0});
  const Result<> done = co_await run(false).result();
  postponed_ = postponed;
  co_await unwrap(done);
}

Task<> Committer::rest() {
  while (running_) co_await ended_.wait();
}

TableSource* Committer::source(Stage stage) noexcept {
  if (postponed_ & bit(stage)) return nullptr;
  switch (stage) {
    case Stage::refcount_blocks: return &sources_.refcount_blocks;
    case Stage::refcount_table: return &sources_.refcount_table;
    case Stage::l2_tables: return &sources_.l2_tables;
    case Stage::l1_table: return &sources_.l1_table;
    case Stage::data:
    case Stage::frees:
    case Stage::dirty_mark:
    case Stage::header: break;
  }
  return nullptr;
}

bool Committer::idle() noexcept {
  if (running_ || file_.unsynced() != 0 || sources_.frees.pending()) return false;
  for (const Stage stage : order_.sequence())
    if (TableSource* tables = source(stage); tables && tables->dirty()) return false;
  return true;
}

Task<> Committer::run(bool durable) {
  running_ = true;
  const std::uint64_t number = ++started_;
  StageSet unsynced = std::exchange(file_.unsynced(), StageSet{0});
  const Result<> done = co_await round(durable, unsynced).result();
  file_.unsynced() |= unsynced;
  running_ = false;
  if (done && durable) durable_ = number;
  ended_.notify_all();
  co_await unwrap(done);
}

Task<> Committer::round(bool durable, StageSet& unsynced) {
  co_await unwrap(file_.intact());
  std::array<std::vector<TableWrite>, stage_count> taken;
  for (const Stage stage : order_.sequence())
    if (TableSource* tables = source(stage)) tables->take(taken[static_cast<std::size_t>(stage)]);
  sources_.frees.take();
  bool sync_owed = durable, frees_durable = false;
  Result<> done;
  for (const Stage stage : order_.sequence()) {
    std::vector<TableWrite>& writes = taken[static_cast<std::size_t>(stage)];
    // What would need a sync before it can be free waits for a round that is durable anyway.
    const bool to_do = stage == Stage::frees ? durable || !must_sync(unsynced, stage) : !writes.empty();
    if (!done || !to_do) continue;
    if (must_sync(unsynced, stage)) {
      done = co_await sync(unsynced).result();
      sync_owed = sync_owed && !done;
    }
    if (!done) continue;
    if (stage == Stage::frees) {
      frees_durable = true;
      continue;
    }
    unsynced |= bit(stage);
    sync_owed = durable;
    file_.tell(event_of(stage));
    done = co_await write_all(writes).result();
  }
  if (done && sync_owed) done = co_await sync(unsynced).result();
  for (const Stage stage : order_.sequence())
    if (TableSource* tables = source(stage)) tables->settle(done.ok());
  sources_.frees.settle(done && frees_durable);
  co_await unwrap(done);
}

bool Committer::must_sync(StageSet unsynced, Stage next) const noexcept {
  for (const Stage stage : order_.sequence())
    if ((unsynced & bit(stage)) && order_.must_precede(stage, next)) return true;
  return false;
}

Task<> Committer::sync(StageSet& unsynced) {
  co_await file_.flush();
  unsynced = 0;
}

Task<> Committer::write_all(std::vector<TableWrite>& writes) {
  Writes all(file_, writes);
  auto body = [&](TaskGroup& group) -> Task<> {
    for (int i = 0; i < writers_max && !all.done(); ++i) group.spawn(all.worker());
    co_await group.join();
  };
  co_await with_group(executor_, body);
}

}  // namespace tidemark::qcow2
