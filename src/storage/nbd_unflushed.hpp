// UnflushedWrites: the changes that a server has answered and not made durable yet.  A server that is started anew may have lost
// them, though whoever wrote them believes them there: they are kept, and sent again by the next connection.
//
// Invariant: in the order of their answers, all since the last flush that succeeded; so sent again, in order, they bring back what
// was there, whichever of them the server has kept.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

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

    NbdExchange exchange() const {
      NbdExchange again;
      again.command = command;
      again.flags = flags;
      again.range = range;
      if (data) again.data = Buffers::of_const({data.get(), range.length});
      return again;
    }
  };

  static bool changes(nbd::Command command) noexcept {
    return command == nbd::Command::write || command == nbd::Command::write_zeroes || command == nbd::Command::trim;
  }

  bool empty() const noexcept { return entries_.empty(); }
  std::uint64_t bytes() const noexcept { return bytes_; }
  // The newest; 0: there was none yet.
  std::uint64_t last() const noexcept { return last_; }

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
  // A flush succeeded that was sent when `number` was the newest.
  void forget(std::uint64_t number) noexcept {
    while (!empty() && entries_.front()->number <= number) {
      bytes_ -= cost(*entries_.front());
      entries_.pop_front();
    }
  }
  // The oldest of those newer than `number`, at most `max`, that may go side by side: no two have bytes in common.
  std::vector<std::shared_ptr<const Entry>> after(std::uint64_t number, std::size_t max) const {
    std::vector<std::shared_ptr<const Entry>> some;
    if (empty()) return some;
    const std::uint64_t oldest = entries_.front()->number;
    for (std::size_t i = number < oldest ? 0 : number - oldest + 1; i < entries_.size() && some.size() < max; ++i) {
      const Range range = entries_[i]->range;
      const auto meets = [&](const auto& other) { return !other->range.intersect(range).empty(); };
      if (std::any_of(some.begin(), some.end(), meets)) break;
      some.push_back(entries_[i]);
    }
    return some;
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
