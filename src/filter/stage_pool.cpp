#include "filter/stage_pool.hpp"

namespace tidemark {

StagePool::Slot StagePool::take() {
  if (free_.empty()) {
    const auto first = static_cast<Slot>(entries_.size());
    pieces_.emplace_back(slots_per_piece * unit);
    entries_.resize(entries_.size() + slots_per_piece);
    // The lowest is taken first, so that slots taken in a row are neighbours.
    for (Slot i = slots_per_piece; i-- != 0;) free_.push_back(first + i);
  }
  const Slot slot = free_.back();
  free_.pop_back();
  entries_[slot].state = State::taken;
  ++used_;
  return slot;
}

void StagePool::give_back(Slot slot) noexcept {
  if (entries_[slot].state == State::pinned)
    entries_[slot].state = State::abandoned;
  else
    release(slot);
}

void StagePool::release(Slot slot) noexcept {
  TM_ASSERT(entries_[slot].state != State::free);
  entries_[slot].state = State::free;
  free_.push_back(slot);
  --used_;
}

MutableBytes StagePool::bytes(Slot slot) noexcept {
  return pieces_[slot / slots_per_piece].bytes().subspan(slot % slots_per_piece * unit, unit);
}

void StagePool::assign(Slot slot, std::uint64_t number) noexcept {
  TM_ASSERT(entries_[slot].state == State::taken);
  entries_[slot] = {State::assigned, number};
}

std::vector<StagePool::Pinned> StagePool::pin_some(std::size_t max) {
  std::vector<Pinned> some;
  for (std::size_t i = 0; i < entries_.size() && some.size() < max; ++i) {
    hand_ = hand_ + 1 < entries_.size() ? hand_ + 1 : 0;
    if (entries_[hand_].state != State::assigned) continue;
    entries_[hand_].state = State::pinned;
    some.push_back({static_cast<Slot>(hand_), entries_[hand_].number});
  }
  return some;
}

bool StagePool::unpin(Slot slot) noexcept {
  const bool kept = entries_[slot].state == State::pinned;
  if (kept)
    entries_[slot].state = State::assigned;
  else
    release(slot);
  return kept;
}

}  // namespace tidemark
