#include "io/sim/file.hpp"

#include <algorithm>

namespace tidemark {

void SimChange::apply(SparseContent& content) const {
  switch (kind) {
    case Kind::write: return content.write(range.offset, *data);
    case Kind::zero: return content.zero(range), content.reserve(range);
    case Kind::punch: return content.punch(range);
    case Kind::reserve: return content.reserve(range);
    case Kind::resize: return content.resize(range.offset);
  }
}

// Decides what is left of each change.  Without a Prng: nothing that is not durable.
class SimFile::Crash {
 public:
  enum class Lot : std::uint8_t { lost, whole, torn };

  Crash(Prng* prng, std::uint32_t sector) : prng_(prng), sector_(sector) {
    if (prng_) mood_ = static_cast<Mood>(prng_->below(4));
  }
  std::uint32_t sector() const noexcept { return sector_; }

  Lot lot() {
    if (!prng_ || mood_ == Mood::lose_all) return Lot::lost;
    if (mood_ == Mood::keep_all) return Lot::whole;
    return static_cast<Lot>(prng_->below(3));
  }
  bool size() {
    if (!prng_ || mood_ == Mood::lose_all) return false;
    return mood_ == Mood::keep_all || prng_->chance(1, 2);
  }
  // Calls f(sector's range) for those sectors of `pages` in `range` that are written when it is torn:
  // those before some place, those behind it, or any.
  template <class F>
  void for_each_left(Range range, const std::vector<std::uint64_t>& pages, F&& f) {
    std::vector<Range> pieces;
    for (const std::uint64_t page : pages)
      for (std::uint64_t in = 0; in < SparseContent::page_size; in += sector_) {
        const Range piece{page * SparseContent::page_size + in, sector_};
        if (piece.overlaps(range)) pieces.push_back(piece);
      }
    const std::size_t cut = prng_->below(pieces.size() + 1);
    const std::uint64_t shape = prng_->below(4);
    for (std::size_t i = 0; i < pieces.size(); ++i)
      if (shape == 0 ? i < cut : shape == 1 ? i >= cut : prng_->chance(1, 2)) f(pieces[i]);
  }

 private:
  // Independent lots alone would hardly ever keep or lose many changes together.
  enum class Mood : std::uint8_t { lose_all, keep_all, mixed, mixed_too };
  Prng* prng_;
  std::uint32_t sector_;
  Mood mood_ = Mood::lose_all;
};

SimFile::SimFile(const SimFile& other, SimSpace* space)
    : space_(space), visible_(other.visible_), durable_(other.durable_), changes_(other.changes_), made_(other.made_) {
  account(other.accounted_);
}

void SimFile::account(std::uint64_t allocated) noexcept {
  if (space_) space_->used += allocated - accounted_;
  accounted_ = allocated;
}

void SimFile::change(SimChange change, bool durable) {
  change.apply(visible_);
  account(visible_.allocated());
  changes_.push_back({std::move(change), durable ? State::durable : State::unsynced});
  ++made_;
  settle();
}

std::size_t SimFile::entries_before(std::uint64_t count) const noexcept {
  const std::uint64_t gone = made_ - changes_.size();     // they were durable
  return count > gone ? std::min<std::size_t>(count - gone, changes_.size()) : 0;
}

void SimFile::sync(std::uint64_t count) {
  for (std::size_t i = 0, end = entries_before(count); i < end; ++i)
    if (changes_[i].state != State::forgotten) changes_[i].state = State::durable_with_size;
  settle();
}

void SimFile::fail_sync(std::uint64_t count, Prng& prng) {
  for (std::size_t i = 0, end = entries_before(count); i < end; ++i)
    if (changes_[i].state == State::unsynced && prng.chance(1, 2))
      changes_[i].state = State::forgotten;
}

void SimFile::settle() {
  auto first = std::ranges::find_if(changes_, [](const Entry& e) { return !e.is_durable(); });
  for (auto it = changes_.begin(); it != first; ++it) it->change.apply(durable_);
  changes_.erase(changes_.begin(), first);
}

SparseContent SimFile::left_by(Crash& crash) const {
  SparseContent left = durable_, now = durable_;          // `now`: after each change, as readers saw it
  std::uint64_t size_min = now.size();                    // since `left` had its size
  for (const auto& [change, state] : changes_) {
    const bool durable = state >= State::durable;
    change.apply(now);
    size_min = std::min(size_min, now.size());
    const auto lot = durable ? Crash::Lot::whole : crash.lot();
    const bool beyond = change.range.end() > std::min(size_min, left.size());
    const bool size = durable ? state == State::durable_with_size || beyond : crash.size();
    if (size) {
      if (size_min < left.size()) left.resize(size_min);
      left.set_size(now.size());
      size_min = now.size();
    }
    const Range sectors = change.range.empty() ? Range{} : change.range.widened(crash.sector());
    if (lot == Crash::Lot::whole) left.copy(now, sectors);
    if (lot == Crash::Lot::torn) {
      const auto old_pages = left.pages_in(sectors), new_pages = now.pages_in(sectors);
      std::vector<std::uint64_t> all;                     // no other page can differ
      std::ranges::set_union(old_pages, new_pages, std::back_inserter(all));
      crash.for_each_left(sectors, all, [&](Range piece) { left.copy(now, piece); });
    }
  }
  left.trim();
  return left;
}

SparseContent SimFile::durable() const {
  Crash nothing(nullptr, 512);
  return left_by(nothing);
}

void SimFile::crash(Prng& prng, std::uint32_t sector) {
  if (clean()) return;
  Crash crash(&prng, sector);
  durable_ = left_by(crash);
  visible_ = durable_;
  account(visible_.allocated());
  changes_.clear();
}

}  // namespace tidemark
