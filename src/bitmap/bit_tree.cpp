#include "bitmap/bit_tree.hpp"

#include <bit>

namespace tidemark {

namespace {
constexpr std::uint64_t nowhere = ~std::uint64_t{0};
}

bool BitTree::test(std::uint64_t bit) const noexcept {
  const Slot* slot = &root_;
  for (unsigned level = height_; slot->is_mixed(); --level) {
    if (level == 0) return slot->leaf().test(static_cast<unsigned>(bit % Leaf::bits));
    slot = &slot->node().children[child_of(level, bit)];
  }
  return slot->is_set();
}

BitTree::Piece BitTree::piece_at(std::uint64_t bit) const noexcept {
  const Slot* slot = &root_;
  unsigned level = height_;
  for (; slot->is_mixed() && level > 0; --level)
    slot = &slot->node().children[child_of(level, bit)];
  const std::uint64_t start = align_down(bit, span(level));
  return {start, end_of(level, start), slot->is_mixed() ? &slot->leaf() : nullptr, slot->is_set()};
}

std::uint64_t BitTree::find(std::uint64_t from, bool value) const noexcept {
  if (from >= size_) return size_;
  // Most searches end in the leaf they begin in; the others go on behind it.
  const Piece piece = piece_at(from);
  if (piece.leaf) {
    const unsigned bit = piece.leaf->find(static_cast<unsigned>(from - piece.from), value);
    if (bit < piece.to - piece.from) return piece.from + bit;
  } else if (piece.value == value) {
    return from;
  }
  if (piece.to == size_) return size_;
  const std::uint64_t found = find(root_, height_, 0, piece.to, value);
  return found < size_ ? found : size_;
}

Range BitTree::find_run(std::uint64_t from) const noexcept {
  const Piece piece = from < size_ ? piece_at(from) : Piece{size_, size_, nullptr, false};
  if (piece.leaf) {
    const unsigned first = piece.leaf->find(static_cast<unsigned>(from - piece.from), true);
    const unsigned last = piece.leaf->find(first, false);
    if (last < piece.to - piece.from) return {piece.from + first, last - first};
  }
  const std::uint64_t first = find(from, true);
  return {first, find(first, false) - first};
}

std::uint64_t BitTree::find(const Slot& slot, unsigned level, std::uint64_t start,
                            std::uint64_t from, bool value) const noexcept {
  if (from < start) from = start;
  if (!slot.is_mixed()) return slot.is(value) ? from : nowhere;
  if (level == 0) {
    const unsigned bit = slot.leaf().find(static_cast<unsigned>(from - start), value);
    return bit < Leaf::bits ? start + bit : nowhere;
  }
  const Node& node = slot.node();
  Word left = node.candidates(value) & (all_ones << child_of(level, from));
  for (; left != 0; left &= left - 1) {
    const auto child = static_cast<unsigned>(std::countr_zero(left));
    const std::uint64_t child_start = start + (std::uint64_t{child} << span_log2(level - 1));
    const std::uint64_t found = find(node.children[child], level - 1, child_start, from, value);
    if (found != nowhere) return found;
  }
  return nowhere;
}

// Makes a uniform slot mixed without a change of its bits.  It is settled again afterwards.
void BitTree::open(Slot& slot, unsigned level, std::uint64_t start) noexcept {
  if (slot.is_mixed()) return;
  const std::uint64_t ones = count_of(slot, level, start);
  if (level == 0) {
    slot = Slot(new Leaf(static_cast<unsigned>(ones)));
    return;
  }
  Node* node = new Node;
  node->count = ones;
  const auto full = static_cast<unsigned>(div_up(ones, span(level - 1)));
  for (unsigned i = 0; i < full; ++i) node->children[i] = Slot::uniform(true);
  node->dirty = node->full = word_mask(0, full);
  slot = Slot(node);
}

void BitTree::settle(Slot& slot, unsigned level, std::uint64_t start) noexcept {
  if (!slot.is_mixed()) return;
  const std::uint64_t count = slot.mixed_count();
  if (count == 0 || count == capacity(level, start)) slot = Slot::uniform(count != 0);
}

// Edits the leaf of a bit: `edit` answers by how much the leaf's count grew (modulo 2^64), and so
// does this.  Nothing happens where a uniform stretch has the value `unless`, which shows before
// anything was opened.
template <class Edit>
std::uint64_t BitTree::edit_leaf(std::uint64_t bit, std::optional<bool> unless,
                                 Edit edit) noexcept {
  std::array<Slot*, height_max + 1> path;
  path[height_] = &root_;
  bool opened = false;
  for (unsigned level = height_;; --level) {
    if (!path[level]->is_mixed()) {
      if (unless == path[level]->is_set()) return 0;
      open(*path[level], level, align_down(bit, span(level)));
      opened = true;
    }
    if (level == 0) break;
    path[level - 1] = &path[level]->node().children[child_of(level, bit)];
  }
  const std::uint64_t grown = edit(path[0]->leaf());
  if (grown == 0 && !opened) return 0;
  settle(*path[0], 0, align_down(bit, span(0)));
  const bool reshaped = opened || !path[0]->is_mixed();
  for (unsigned level = 1; level <= height_; ++level) {
    Node& node = path[level]->node();
    node.count += grown;
    if (!reshaped) continue;
    node.refresh(child_of(level, bit));
    settle(*path[level], level, align_down(bit, span(level)));
  }
  return grown;
}

std::uint64_t BitTree::assign(std::uint64_t from, std::uint64_t to, bool value) noexcept {
  TM_ASSERT(from <= to && to <= size_);
  if (from == to) return 0;
  const std::uint64_t start = align_down(from, Leaf::bits);
  if (to - start > Leaf::bits) return assign(root_, height_, 0, {from, to - from}, value);
  const std::uint64_t grown = edit_leaf(from, value, [=](Leaf& leaf) {
    return leaf.assign(static_cast<unsigned>(from - start), static_cast<unsigned>(to - start),
                       value);
  });
  return value ? grown : 0 - grown;
}

std::uint64_t BitTree::assign(Slot& slot, unsigned level, std::uint64_t start, Range bits,
                              bool value) noexcept {
  if (slot.is(value)) return 0;
  const std::uint64_t end = end_of(level, start);
  if (bits.offset <= start && bits.end() >= end) {
    const std::uint64_t ones = count_of(slot, level, start);
    slot = Slot::uniform(value);
    return value ? end - start - ones : ones;
  }
  const std::uint64_t from = bits.offset > start ? bits.offset : start;
  const std::uint64_t to = bits.end() < end ? bits.end() : end;
  open(slot, level, start);
  std::uint64_t changed = 0;
  if (level == 0) {
    const std::uint64_t grown = slot.leaf().assign(static_cast<unsigned>(from - start),
                                                   static_cast<unsigned>(to - start), value);
    changed = value ? grown : 0 - grown;
  } else {
    Node& node = slot.node();
    for (unsigned child = child_of(level, from); child <= child_of(level, to - 1); ++child) {
      const std::uint64_t child_start = start + (std::uint64_t{child} << span_log2(level - 1));
      changed += assign(node.children[child], level - 1, child_start, bits, value);
      node.refresh(child);
    }
    node.count += value ? changed : 0 - changed;
  }
  settle(slot, level, start);
  return changed;
}

void BitTree::invert() noexcept {
  if (size_ != 0) invert(root_, height_, 0);
}

void BitTree::invert(Slot& slot, unsigned level, std::uint64_t start) noexcept {
  if (!slot.is_mixed()) {
    slot = Slot::uniform(!slot.is_set());
  } else if (level == 0) {
    slot.leaf().flip(static_cast<unsigned>(capacity(level, start)));
  } else {
    Node& node = slot.node();
    node.count = capacity(level, start) - node.count;
    for (unsigned child = 0; child < Node::fanout && start < size_; ++child) {
      invert(node.children[child], level - 1, start);
      node.refresh(child);
      start += span(level - 1);
    }
  }
}

void BitTree::put(std::uint64_t bit, const Word* words, unsigned n) noexcept {
  const std::uint64_t end = bit + std::uint64_t{n} * word_bits;
  if (find_word_not(words, 0, n, 0) == n) {
    assign(bit, end < size_ ? end : size_, false);
    return;
  }
  const auto at = static_cast<unsigned>(bit % Leaf::bits) / word_bits;
  edit_leaf(bit, std::nullopt, [=](Leaf& leaf) { return leaf.put(at, words, n); });
}

void BitTree::merge(std::uint64_t bit, const Word* words, unsigned n) noexcept {
  if (find_word_not(words, 0, n, 0) == n) return;
  const auto at = static_cast<unsigned>(bit % Leaf::bits) / word_bits;
  edit_leaf(bit, true, [=](Leaf& leaf) { return leaf.merge(at, words, n); });
}

void BitTree::add(std::uint64_t first, std::span<const std::uint16_t> numbers) noexcept {
  if (!numbers.empty()) edit_leaf(first, true, [=](Leaf& leaf) { return leaf.add(numbers); });
}

BitTree BitTree::clone() const {
  BitTree copy(size_);
  copy.root_ = root_.clone();
  return copy;
}

}  // namespace tidemark
