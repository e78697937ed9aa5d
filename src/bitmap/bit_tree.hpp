// BitTree: a sparse array of up to 2^57 bits, all clear at first.
//
// Leaves of 32768 bits under as many levels of nodes as the size needs (none up to 32768 bits, 7 for an
// 8 EiB disk in sectors).  What is uniformly clear or set has no memory, so a search or an
// operation on a range steps over it in one go, and the cost of everything follows what is mixed.
//
// The tree is always settled (see slot.hpp): equal content means equal shape.  Searches answer
// size() when there is nothing.  Out of memory ends the process; nothing else fails.
#pragma once

#include <optional>

#include "base/units.hpp"
#include "bitmap/slot.hpp"

namespace tidemark {

class BitTree {
 public:
  explicit BitTree(std::uint64_t size = 0) noexcept : size_(size), height_(height_for(size)) {}
  // Moved from, a tree is all clear and keeps its size.
  BitTree(BitTree&&) = default;
  BitTree& operator=(BitTree&&) = default;

  std::uint64_t size() const noexcept { return size_; }
  std::uint64_t count() const noexcept { return count_of(root_, height_, 0); }
  bool test(std::uint64_t bit) const noexcept;
  // The first bit at or after `from` that has the value.
  std::uint64_t find(std::uint64_t from, bool value) const noexcept;
  // The first set bits at or after `from`, up to the next clear one; empty at size() when none.
  Range find_run(std::uint64_t from) const noexcept;

  // Sets or clears [from, to), within the size; answers how many bits changed.
  std::uint64_t assign(std::uint64_t from, std::uint64_t to, bool value) noexcept;
  void assign_all(bool value) noexcept { root_ = Slot::uniform(value && size_ != 0); }
  void invert() noexcept;
  // What is cut off is lost, what is added is clear.
  void resize(std::uint64_t new_size) noexcept;
  // Adds the other's bits that lie within this size.
  void merge(const BitTree& other) noexcept;

  // The longest stretch around a bit that one slot describes.  `leaf` is null where it is uniform,
  // else the leaf whose bit 0 is `from`.
  struct Piece {
    std::uint64_t from;
    std::uint64_t to;
    const Leaf* leaf;
    bool value;
  };
  Piece piece_at(std::uint64_t bit) const noexcept;

  // Replaces the 64 * n bits from `bit` on, or adds to them; `bit` is a multiple of 64, they lie
  // within one leaf, and those beyond the size are clear.
  void put(std::uint64_t bit, const Word* words, unsigned n) noexcept;
  void merge(std::uint64_t bit, const Word* words, unsigned n) noexcept;
  // Sets bits of the leaf that begins at `first`, by their numbers in it; they lie within the size.
  void add(std::uint64_t first, std::span<const std::uint16_t> numbers) noexcept;

  BitTree clone() const;
  std::size_t heap_bytes() const noexcept { return root_.heap_bytes(); }
  friend bool operator==(const BitTree& a, const BitTree& b) noexcept {
    return a.size_ == b.size_ && a.root_ == b.root_;
  }

 private:
  // How many bits a slot of a level stands for, as a power of two; leaves are level 0.
  static constexpr unsigned span_log2(unsigned level) noexcept {
    return Leaf::bits_log2 + level * Node::fanout_log2;
  }
  static constexpr std::uint64_t span(unsigned level) noexcept {
    return std::uint64_t{1} << span_log2(level);
  }
  static constexpr unsigned height_max = 7;
  static unsigned height_for(std::uint64_t size) noexcept {
    unsigned height = 0;
    while (span(height) < size) ++height;
    return height;
  }
  static unsigned child_of(unsigned level, std::uint64_t bit) noexcept {
    return static_cast<unsigned>(bit >> span_log2(level - 1)) % Node::fanout;
  }
  // A slot's stretch begins at `start`; it ends at its span's end or at the bitmap's.
  std::uint64_t end_of(unsigned level, std::uint64_t start) const noexcept {
    const std::uint64_t end = start + span(level);
    return end < size_ ? end : size_;
  }
  std::uint64_t capacity(unsigned level, std::uint64_t start) const noexcept {
    return start < size_ ? end_of(level, start) - start : 0;
  }
  std::uint64_t count_of(const Slot& slot, unsigned level, std::uint64_t start) const noexcept {
    if (slot.is_mixed()) return slot.mixed_count();
    return slot.is_set() ? capacity(level, start) : 0;
  }

  void open(Slot& slot, unsigned level, std::uint64_t start) noexcept;
  void settle(Slot& slot, unsigned level, std::uint64_t start) noexcept;
  // The recursive parts; a slot comes with its level and the bit its stretch begins at.
  std::uint64_t find(const Slot& slot, unsigned level, std::uint64_t start, std::uint64_t from,
                     bool value) const noexcept;
  std::uint64_t assign(Slot& slot, unsigned level, std::uint64_t start, Range bits,
                       bool value) noexcept;
  void invert(Slot& slot, unsigned level, std::uint64_t start) noexcept;
  template <class Edit>
  std::uint64_t edit_leaf(std::uint64_t bit, std::optional<bool> unless, Edit edit) noexcept;

  struct Source;
  std::uint64_t merge(Slot& slot, unsigned level, std::uint64_t start, Source source) noexcept;
  std::uint64_t merge_node(Slot& slot, unsigned level, std::uint64_t start, Source source) noexcept;

  void open_end(Slot& slot, unsigned level, std::uint64_t start) noexcept;
  void settle_end(Slot& slot, unsigned level, std::uint64_t start) noexcept;
  void raise(unsigned height) noexcept;
  void lower(unsigned height) noexcept;

  std::uint64_t size_;
  unsigned height_;  // the root's level
  Slot root_;
};

}  // namespace tidemark
