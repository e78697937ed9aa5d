// Slot and Node: the upper levels of a bitmap's tree.
//
// A slot stands for an aligned stretch of the bitmap and owns what describes it: nothing where the
// stretch is all clear or all set (those need no memory, however long they are), else a leaf or a
// node of 64 slots.  Invariants of a settled slot: a leaf or node in it is neither all clear nor
// all set; a node's `count` is the sum of its children's, and its two masks say which children are
// not clear and which are set, so that a search takes one instruction a level.  Children wholly
// beyond the bitmap's end are clear; "set" means set up to the end.
#pragma once

#include <array>
#include <utility>

#include "base/assert.hpp"
#include "bitmap/leaf.hpp"

namespace tidemark {

struct Node;

class Slot {
 public:
  Slot() = default;  // all clear
  explicit Slot(Leaf* leaf) noexcept : tagged_(reinterpret_cast<std::uintptr_t>(leaf) | leaf_tag) {}
  explicit Slot(Node* node) noexcept : tagged_(reinterpret_cast<std::uintptr_t>(node)) {}
  static Slot uniform(bool value) noexcept {
    Slot slot;
    slot.tagged_ = value ? set_tag : 0;
    return slot;
  }
  Slot(Slot&& other) noexcept : tagged_(std::exchange(other.tagged_, 0)) {}
  Slot& operator=(Slot&& other) noexcept {
    Slot gone(std::move(*this));
    tagged_ = std::exchange(other.tagged_, 0);
    return *this;
  }
  ~Slot() {
    if (is_mixed()) destroy();
  }

  bool is_clear() const noexcept { return tagged_ == 0; }
  bool is_set() const noexcept { return tagged_ == set_tag; }
  bool is(bool value) const noexcept { return value ? is_set() : is_clear(); }
  bool is_mixed() const noexcept { return tagged_ > set_tag; }
  bool is_leaf() const noexcept { return (tagged_ & leaf_tag) != 0; }

  // Only of what it is.
  Leaf& leaf() const noexcept { return *reinterpret_cast<Leaf*>(tagged_ - leaf_tag); }
  Node& node() const noexcept { return *reinterpret_cast<Node*>(tagged_); }
  std::uint64_t& mixed_count() const noexcept;

  Slot clone() const;
  std::size_t heap_bytes() const noexcept;
  // Of settled slots that stand for the same stretch.
  friend bool operator==(const Slot& a, const Slot& b) noexcept;

 private:
  static constexpr std::uintptr_t set_tag = 1;
  static constexpr std::uintptr_t leaf_tag = 2;
  void destroy() noexcept;

  std::uintptr_t tagged_ = 0;
};

struct Node {
  static constexpr unsigned fanout_log2 = 6;
  static constexpr unsigned fanout = 1u << fanout_log2;

  std::uint64_t count = 0;
  Word dirty = 0;  // children that are not clear
  Word full = 0;   // children that are set
  std::array<Slot, fanout> children;

  // Children whose part of the bitmap is not all `!value`, that is, where a search for it looks.
  Word candidates(bool value) const noexcept { return value ? dirty : ~full; }
  // Brings the masks up to date after a change of one child.
  void refresh(unsigned child) noexcept {
    const Word bit = Word{1} << child;
    dirty = children[child].is_clear() ? dirty & ~bit : dirty | bit;
    full = children[child].is_set() ? full | bit : full & ~bit;
  }
};

inline std::uint64_t& Slot::mixed_count() const noexcept {
  return is_leaf() ? leaf().count : node().count;
}

}  // namespace tidemark
