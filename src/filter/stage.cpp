#include "filter/stage.hpp"

#include <algorithm>

namespace tidemark {
namespace {

constexpr StagePool::Slot no_slot = ~0u;
constexpr std::uint64_t room_most = 1 * MiB / Stage::unit;

std::string size_text(std::uint64_t bytes) {
  return bytes >= GiB && bytes % GiB == 0 ? std::to_string(bytes / GiB) + " GiB"
                                          : std::to_string(bytes / MiB) + " MiB";
}

}  // namespace

Stage::Room::Room(Stage& stage, std::uint64_t units) : stage_(stage) {
  slots_.reserve(units);
  for (std::uint64_t i = 0; i < units; ++i) slots_.push_back(stage.pool_.take());
}

Stage::Room::~Room() {
  for (const StagePool::Slot slot : slots_)
    if (slot != no_slot) stage_.pool_.give_back(slot);
  // What was added can be spilled now, so that there is news either way.
  if (!slots_.empty()) stage_.room_.notify_all();
}

std::vector<iovec> Stage::Room::memory(std::size_t length) const {
  std::vector<iovec> pieces;
  for (std::size_t i = 0; length != 0; ++i) {
    const MutableBytes slot =
        stage_.pool_.bytes(slots_[i]).first(std::min<std::size_t>(unit, length));
    length -= slot.size();
    const bool follows =
        !pieces.empty() &&
        static_cast<std::byte*>(pieces.back().iov_base) + pieces.back().iov_len == slot.data();
    if (follows)
      pieces.back().iov_len += slot.size();
    else
      pieces.push_back({slot.data(), slot.size()});
  }
  return pieces;
}

Stage::Stage(Reactor& reactor, StageOptions options)
    : reactor_(reactor),
      options_(std::move(options)),
      budget_(options_.budget / unit),
      pool_(std::min(options_.memory, options_.budget) / unit),
      room_max_(std::clamp<std::uint64_t>(pool_.limit() / 4, 1, room_most)),
      turn_(reactor),
      room_(reactor),
      throttling_(reactor),
      running_(reactor) {}

Task<> Stage::open() {
  if (options_.spill && !options_.directory.empty()) co_await open_scratch();
}

Task<> Stage::close() {
  co_await running_.wait_idle();
  co_await scratch_.close();
}

void Stage::end(Error why) {
  if (!ended_) ended_ = std::move(why);
  room_.notify_all();
}

Error Stage::full(bool in_budget) const {
  const std::uint64_t limit = in_budget ? pool_.limit() * unit : options_.budget;
  std::string text = "staging is full: " + size_text(limit) +
                     " of data that the guest has overwritten wait for the target; ";
  if (!in_budget)
    text += "make staging-budget larger, or have on-staging-full=throttle";
  else if (spill_error_)
    text += spill_error_->message();
  else
    text += "make staging-memory larger, or allow spill";
  return Error(Errc::no_space, std::move(text));
}

Task<Stage::Room> Stage::room_for(std::uint64_t units) {
  TM_ASSERT(units <= room_max_);
  const Mutex::Guard turn = co_await turn_.lock();
  co_await wait_for(units);
  Room room(*this, units);
  start_spilling();
  co_return std::move(room);
}

Task<> Stage::wait_for(std::uint64_t units) {
  for (;;) {
    if (ended_) co_await *ended_;
    const bool in_budget = used() + units <= budget_;
    if (in_budget && pool_.has_room(units)) co_return;
    const bool spills = in_budget && can_spill();
    if (!spills && options_.on_full == OnStagingFull::fail) co_await full(in_budget);
    if (spills) start_spilling();
    throttles_ = !spills;
    if (throttles_) throttling_.notify_all();
    co_await room_.wait();
    throttles_ = false;
  }
}

void Stage::add(std::uint64_t offset, Room& room, std::size_t index) {
  StagePool::Slot& slot = room.slots_[index];
  if (is_zero(pool_.bytes(slot))) {
    zeroes_ += units_.emplace(offset / unit, Place::zeroes()).second;
    return;  // the slot goes back with the room
  }
  pool_.assign(slot, offset / unit);
  units_.emplace(offset / unit, Place::memory(slot));
  slot = no_slot;
}

void Stage::add(std::uint64_t offset, Bytes data) {
  for (; !data.empty(); offset += unit) {
    const Bytes one = data.first(std::min<std::size_t>(unit, data.size()));
    data = data.subspan(one.size());
    if (has(offset)) continue;
    if (is_zero(one)) {
      zeroes_ += units_.emplace(offset / unit, Place::zeroes()).second;
      continue;
    }
    const StagePool::Slot slot = pool_.take();
    std::copy(one.begin(), one.end(), pool_.bytes(slot).begin());
    pool_.assign(slot, offset / unit);
    units_.emplace(offset / unit, Place::memory(slot));
  }
  start_spilling();
}

std::optional<Range> Stage::next_missing(Range range) const noexcept {
  if (units_.empty()) return range.empty() ? std::nullopt : std::optional(range);
  std::uint64_t from = range.offset;
  while (from < range.end() && has(from)) from += unit;
  if (from >= range.end()) return std::nullopt;
  std::uint64_t to = from + unit;
  while (to < range.end() && !has(to)) to += unit;
  return Range{from, std::min(to, range.end()) - from};
}

Task<> Stage::fetch(Range range, MutableBytes into) {
  for (std::uint64_t at = range.offset; at < range.end();) {
    const auto found = units_.find(at / unit);
    const std::uint64_t from = at;
    at = std::min(at + unit, range.end());
    if (found == units_.end()) continue;
    const Place first = found->second;
    const MutableBytes there = into.subspan(from - range.offset, at - from);
    if (first.is_zero()) {
      std::fill(there.begin(), there.end(), std::byte{0});
    } else if (!first.in_scratch()) {
      const Bytes data = pool_.bytes(first.slot()).first(there.size());
      std::copy(data.begin(), data.end(), there.begin());
    } else {
      // Neighbours that lie side by side in the scratch file, too, are read at once.
      for (std::uint32_t slot = first.slot() + 1; at < range.end(); ++slot) {
        const auto next = units_.find(at / unit);
        if (next == units_.end() || !next->second.in_scratch() || next->second.slot() != slot) break;
        at = std::min(at + unit, range.end());
      }
      const Buffers run = into.subspan(from - range.offset, at - from);
      co_await scratch_.read(first.slot() * unit, run);
    }
  }
}

void Stage::forget(Range range) {
  for (std::uint64_t at = range.offset; at < range.end() && !units_.empty(); at += unit) {
    const auto found = units_.find(at / unit);
    if (found == units_.end()) continue;
    const Place place = found->second;
    units_.erase(found);
    if (place.in_scratch()) {
      scratch_free_.push_back(place.slot());
      --spilled_;
    } else if (place.is_zero()) {
      --zeroes_;
    } else {
      pool_.give_back(place.slot());
    }
  }
  room_.notify_all();
}

StageUsage Stage::usage() const noexcept {
  return {used() * unit, spilled_ * unit, options_.budget};
}

// A granule that is shipped out of turn costs a read of all of it for the few units that are staged; to
// spill those costs less.
bool Stage::presses() const noexcept {
  const bool memory = !can_spill() && pool_.used() > pool_.limit() / 2;
  return memory || used() > budget_ / 4 * 3;
}

}  // namespace tidemark
