// A group of jobs and actions that ends well in all stores that it concerns, or in none (docs/decisions/0009-groups.md).
//
// Invariant: the keeper has a group on record as long as a store's root has an intent of it that was decided.
#include <algorithm>

#include "tracking/store.hpp"

namespace tidemark::tracking {
namespace {

constexpr int looks_max = 5;              // at a store that another node writes to meanwhile

// Whether it is on record, and will be whatever happens; false where nobody can tell.
Task<bool> is_on_record(Reactor& reactor, const Intent& intent) {
  StoreFile keeper;
  co_await keeper.open(reactor, intent.keeper.path, StoreFile::Use::look);
  Result<bool> found = false;
  for (int look = 0; look < looks_max; ++look) {
    const auto root = co_await keeper.read_root().result();
    if (!root || !*root || (*root)->store_id != intent.keeper.store) break;
    const auto catalogue = co_await keeper.read_catalogue(**root).result();
    if (!catalogue) continue;
    found = std::ranges::find(catalogue->records, intent.group) != catalogue->records.end();
    break;
  }
  if (*found) {
    const Result<> lasts = co_await keeper.file().sync().result();
    if (!lasts) found = false;
  }
  co_await keeper.close();
  co_return *found;
}

}  // namespace

// What was intended, if it counts.
Task<std::optional<Catalogue>> TrackingStore::intended() {
  if (!catalogue_.intent) co_return std::nullopt;
  const Result<bool> ended = co_await is_on_record(home_.reactor(), *catalogue_.intent).result();
  if (!ended || !*ended) co_return std::nullopt;
  Catalogue chosen;
  chosen.entries = catalogue_.intent->entries;
  co_return std::move(chosen);
}

Task<> TrackingStore::intend(std::uint64_t group, const GroupKeeper& keeper) {
  GroupStep step;
  step.group = group;
  step.keeper = keeper;
  const Result<> done = co_await checkpoint(Depth::lasting, &step).result();
  if (!done) withdraw(group);
  co_await unwrap(done);
}

void TrackingStore::withdraw(std::uint64_t group) noexcept {
  if (intended_ == group) intended_ = 0;
}

Task<> TrackingStore::decide(std::uint64_t group, bool recorded) {
  GroupStep step;
  step.group = group;
  step.decides = true;
  step.recorded = recorded;
  co_await checkpoint(Depth::lasting, &step);
}

Task<> TrackingStore::settle_group(std::uint64_t group) {
  withdraw(group);
  node_.bitmaps().group_decided(group);
  co_await save();
}

void TrackingStore::forget_group(std::uint64_t group) noexcept { std::erase(records_, group); }

}  // namespace tidemark::tracking
