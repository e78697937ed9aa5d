// UnflushedWrites: the changes that a server has answered and not made durable yet.  A server that is started anew may have lost
// them, though whoever wrote them believes them there: they are kept, and sent again by the next connection.
//
// Invariant: in the order of their answers, all since the last flush that was answered (who asked for one that failed knows) and
// since nobody could write; so what is sent again brings back what was there, whichever of them the server has kept, and in part it
// takes nothing back that was written later.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "base/range_set.hpp"
#include "storage/nbd_link.hpp"

namespace tidemark {

// One thread.
class UnflushedWrites {
 public:
  struct Entry {
    std::uint64_t number;                    // from 1 on, in order
    nbd::Command command;                    // write, write_zeroes or trim
    std::uint16_t flags;
    Range range;
    std::unique_ptr<std::byte[]> data;       // of a write
  };

  // What of an entry is to be sent again.
  struct Piece {
    std::shared_ptr<const Entry> entry;
    Range range;

    NbdExchange exchange() const {
      NbdExchange again;
      again.command = entry->command;
      again.flags = entry->flags;
      again.range = range;
      if (entry->data) again.data = Buffers::of_const({entry->data.get() + (range.offset - entry->range.offset), range.length});
      return again;
    }
  };

  static bool changes(nbd::Command command) noexcept {
    return command == nbd::Command::write || command == nbd::Command::write_zeroes || command == nbd::Command::trim;
  }

  bool empty() const noexcept { return entries_.empty(); }
  std::uint64_t bytes() const noexcept { return bytes_; }
  // The number of the newest; 0: there was none yet.
  std::uint64_t last() const noexcept { return last_; }
  // Whether there are any up to this number.
  bool any_until(std::uint64_t number) const noexcept { return !empty() && entries_.front()->number <= number; }

  // One that was answered just now.  What is durable by itself matters only where it follows on what is not.
  void add(const NbdExchange& exchange) {
    const bool durable = (exchange.flags & nbd::command_flag::fua) != 0;
    if (!changes(exchange.command) || (durable && empty())) return;
    // Whether zeroes come fast was said; now they just are to come.
    const auto flags = static_cast<std::uint16_t>(exchange.flags & ~nbd::command_flag::fast_zero);
    std::unique_ptr<std::byte[]> data;
    if (!exchange.data.empty()) {
      data = std::make_unique_for_overwrite<std::byte[]>(exchange.range.length);
      exchange.data.copy_to({data.get(), exchange.range.length});
    }
    entries_.push_back(std::make_shared<const Entry>(Entry{++last_, exchange.command, flags, exchange.range, std::move(data)}));
    bytes_ += cost(*entries_.back());
  }
  // A flush was answered that was sent when `number` was the newest; or nobody is left who wrote these.
  void forget(std::uint64_t number) noexcept {
    while (!empty() && entries_.front()->number <= number) {
      bytes_ -= cost(*entries_.front());
      entries_.pop_front();
    }
  }
  // All that is to be sent again, in order.  Nothing that was written again later: a server that has kept it, and does not get all
  // of this, would have older bytes than before.  A trim counts as written for older trims only, for it may do nothing.
  // Not many more than there are entries: what cuts one is one range from there on.
  std::vector<Piece> pieces() const {
    std::vector<Piece> found;
    RangeSet written, changed;
    for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
      const bool trim = (*entry)->command == nbd::Command::trim;
      for (const Range& range : (trim ? changed : written).outside((*entry)->range)) found.push_back({*entry, range});
      changed.add((*entry)->range);
      if (!trim) written.add((*entry)->range);
    }
    std::reverse(found.begin(), found.end());
    return found;
  }

 private:
  static constexpr std::uint64_t cost_min = 1 * KiB;       // they take time, too
  static std::uint64_t cost(const Entry& entry) noexcept {
    return std::max(cost_min, sizeof(Entry) + (entry.data ? entry.range.length : 0));
  }

  std::deque<std::shared_ptr<const Entry>> entries_;
  std::uint64_t last_ = 0, bytes_ = 0;
};

}  // namespace tidemark
