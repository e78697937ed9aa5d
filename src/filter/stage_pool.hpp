// StagePool: memory in units of 4 KiB, allocated as it is needed.
//
// A slot that is pinned (it is being written from) and given back meanwhile stays out of use until
// it is unpinned.
#pragma once

#include <vector>

#include "base/units.hpp"
#include "io/aligned.hpp"

namespace tidemark {

// One thread.  Memory is kept until the pool goes.
class StagePool {
 public:
  using Slot = std::uint32_t;
  static constexpr std::uint64_t unit = 4 * KiB;

  // `limit` is how many slots may be had before has_room() says no; take() gives more.
  explicit StagePool(std::uint64_t limit) : limit_(limit) {}

  std::uint64_t limit() const noexcept { return limit_; }
  std::uint64_t used() const noexcept { return used_; }
  bool has_room(std::uint64_t slots) const noexcept { return used_ + slots <= limit_; }

  Slot take();
  void give_back(Slot slot) noexcept;
  MutableBytes bytes(Slot slot) noexcept;

  // What a slot is for, so that it is found by going through them.
  void assign(Slot slot, std::uint64_t number) noexcept;
  // Pins and returns the next assigned one, from where the last call ended; none after a round.
  struct Pinned {
    Slot slot;
    std::uint64_t number;
  };
  std::vector<Pinned> pin_some(std::size_t max);
  // False: it was given back meanwhile, and is free now.
  bool unpin(Slot slot) noexcept;

 private:
  static constexpr std::uint64_t slots_per_piece = 1 * MiB / unit;
  enum class State : std::uint8_t { free, taken, assigned, pinned, abandoned };
  struct Entry {
    State state = State::free;
    std::uint64_t number = 0;
  };
  void release(Slot slot) noexcept;

  const std::uint64_t limit_;
  std::uint64_t used_ = 0;
  std::vector<AlignedBuffer> pieces_;
  std::vector<Entry> entries_;
  std::vector<Slot> free_;
  std::size_t hand_ = 0;
};

}  // namespace tidemark
