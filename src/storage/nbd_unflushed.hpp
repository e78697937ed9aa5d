// UnflushedWrites: the changes that a server has answered and not made durable yet.  A server that is started anew may have lost
// them, though whoever wrote them believes them there: they are kept, and sent again by the next connection.
//
// Invariant: in the order of their answers, all since the last flush that succeeded; so sent again, in order, they bring back what
// was there, whichever of them the server has kept.
#pragma once

#include <deque>
#include <memory>

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
    AlignedBuffer data;                      // of a write

    NbdExchange exchange() const {
      NbdExchange again;
      again.command = command;
      again.flags = flags;
      again.range = range;
      again.data = Buffers::of_const(data.bytes());
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
    AlignedBuffer data(exchange.data.size());
    exchange.data.copy_to(data.bytes());
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
  // The oldest that is newer than `number`, or null.
  std::shared_ptr<const Entry> after(std::uint64_t number) const noexcept {
    if (empty() || number >= last_) return nullptr;
    const std::uint64_t oldest = entries_.front()->number;
    return entries_[number < oldest ? 0 : number - oldest + 1];
  }

 private:
  static std::uint64_t cost(const Entry& entry) noexcept { return sizeof(Entry) + entry.data.size(); }

  std::deque<std::shared_ptr<const Entry>> entries_;
  std::uint64_t last_ = 0, bytes_ = 0;
};

}  // namespace tidemark
