// BitTree::merge: two trees walked side by side, touching only what is mixed in both.
#include <bit>

#include "bitmap/bit_tree.hpp"

namespace tidemark {

// A slot of the other tree that stands for the same start as ours, at our level or below it.
struct BitTree::Source {
  const BitTree& tree;
  const Slot& slot;
  unsigned level;
};

void BitTree::merge(const BitTree& other) noexcept {
  const Slot* slot = &other.root_;
  unsigned level = other.height_;
  for (; level > height_ && slot->is_mixed(); --level) slot = &slot->node().children[0];
  if (level > height_) level = height_;
  merge(root_, height_, 0, {other, *slot, level});
}

std::uint64_t BitTree::merge(Slot& slot, unsigned level, std::uint64_t start,
                             Source source) noexcept {
  if (source.slot.is_clear() || slot.is_set() || start >= size_) return 0;
  const std::uint64_t end = end_of(source.level, start);
  const std::uint64_t source_end = source.tree.end_of(source.level, start);
  if (source.slot.is_set())
    return assign(slot, level, start, {start, (end < source_end ? end : source_end) - start}, true);
  if (slot.is_clear() && level == source.level && end == source_end) {
    slot = source.slot.clone();
    return slot.mixed_count();
  }
  open(slot, level, start);
  const std::uint64_t added = level == 0 ? slot.leaf().merge(source.slot.leaf(), static_cast<unsigned>(capacity(0, start)))
                                         : merge_node(slot, level, start, source);
  settle(slot, level, start);
  return added;
}

std::uint64_t BitTree::merge_node(Slot& slot, unsigned level, std::uint64_t start,
                                  Source source) noexcept {
  Node& node = slot.node();
  std::uint64_t added = 0;
  if (source.level < level) {
    added = merge(node.children[0], level - 1, start, source);
    node.refresh(0);
  } else {
    const Node& from = source.slot.node();
    for (Word left = from.dirty & ~node.full; left != 0; left &= left - 1) {
      const auto child = static_cast<unsigned>(std::countr_zero(left));
      const std::uint64_t child_start = start + (std::uint64_t{child} << span_log2(level - 1));
      added += merge(node.children[child], level - 1, child_start,
                     {source.tree, from.children[child], level - 1});
      node.refresh(child);
    }
  }
  node.count += added;
  return added;
}

}  // namespace tidemark
