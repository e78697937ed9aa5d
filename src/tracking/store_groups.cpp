// A group of jobs and actions that ends well in all stores that it concerns, or in none (docs/decisions/0009-groups.md).
//
// Invariant: the keeper has a group on record as long as a store's root has an intent of it that was decided.
#include <algorithm>
#include <memory>

#include "block/graph.hpp"
#include "task/detached.hpp"
#include "tracking/store.hpp"

namespace tidemark::tracking {
namespace {

constexpr int looks_max = 5;              // at a store that another node writes to meanwhile
constexpr Duration look_pause = std::chrono::milliseconds(10);
constexpr Duration answer_max = std::chrono::seconds(5);

// Who asks waits no longer than that; the operation under way cannot be ended, and goes on without it.
struct LookUp {
  std::uint64_t group = 0;
  GroupKeeper keeper;
  std::optional<bool> found;
  CancelSource answered;
};

// At this moment.
Task<bool> has_record(StoreFile& keeper, const LookUp& asked) {
  std::uint64_t version = 0;
  for (int look = 0; look < looks_max; ++look) {
    const std::optional<Superblock> root = co_await keeper.read_root();
    if (!root || root->store_id != asked.keeper.store || root->version == version) co_return false;
    version = root->version;
    const auto catalogue = co_await keeper.read_catalogue(*root).result();
    if (catalogue) co_return std::ranges::find(catalogue->records, asked.group) != catalogue->records.end();
  }
  co_return false;
}

// What a process that was killed had under way holds its lock until it has ended, and may be the record; an owner who lives
// has settled it.
Task<bool> look(StoreFile& keeper, const LookUp& asked) {
  Reactor& reactor = keeper.file().reactor();
  const Instant until = reactor.now() + StoreFile::lock_patience;
  for (;;) {
    const bool ended = co_await keeper.try_share();
    const bool last = ended || reactor.now() >= until;
    const bool found = co_await has_record(keeper, asked);
    if (found) co_await keeper.file().sync();
    if (found || last) co_return found;
    co_await reactor.sleep(look_pause);
  }
}

// Whether it is on record, and will be whatever happens; false where nobody can tell.
Task<> look_up(Reactor& reactor, std::shared_ptr<LookUp> asked) {
  StoreFile keeper;
  Result<bool> found = false;
  const Result<> opened = co_await keeper.open(reactor, asked->keeper.path, StoreFile::Use::look).result();
  if (opened) found = co_await look(keeper, *asked).result();
  asked->found = found && *found;
  asked->answered.request();
  co_await keeper.close();
}

}  // namespace

// What was intended, if it counts.
Task<std::optional<Catalogue>> TrackingStore::intended() {
  if (!catalogue_.intent) co_return std::nullopt;
  const auto asked = std::make_shared<LookUp>();
  asked->group = catalogue_.intent->group;
  asked->keeper = catalogue_.intent->keeper;
  run_detached(look_up(home_.reactor(), asked), node_.graph().left_behind().enter());
  (void)co_await home_.reactor().sleep(answer_max, asked->answered.token()).result();
  if (!asked->found.value_or(false)) co_return std::nullopt;
  Catalogue chosen;
  chosen.entries = catalogue_.intent->entries;
  co_return std::move(chosen);
}

// A file made anew is another one.
Task<GroupKeeper> TrackingStore::keeper() {
  if (failed()) co_await save();
  GroupKeeper keeper{root_.store_id, options_.path};
  co_return std::move(keeper);
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

Task<> TrackingStore::decide(std::uint64_t group, std::uint64_t recorded_as) {
  GroupStep step;
  step.group = group;
  step.decides = true;
  step.recorded_as = recorded_as;
  co_await checkpoint(Depth::lasting, &step);
}

Task<> TrackingStore::settle_group(std::uint64_t group) {
  withdraw(group);
  node_.bitmaps().group_decided(group);
  co_await save();
}

void TrackingStore::forget_group(std::uint64_t group) noexcept { std::erase(records_, group); }

}  // namespace tidemark::tracking
