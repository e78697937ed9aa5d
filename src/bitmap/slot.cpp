#include "bitmap/slot.hpp"

#include <algorithm>

namespace tidemark {

void Slot::destroy() noexcept {
  if (is_leaf())
    delete &leaf();
  else
    delete &node();
}

Slot Slot::clone() const {
  if (!is_mixed()) return uniform(is_set());
  if (is_leaf()) return Slot(new Leaf(leaf()));
  const Node& from = node();
  Node* copy = new Node;
  copy->count = from.count;
  copy->dirty = from.dirty;
  copy->full = from.full;
  for (unsigned i = 0; i < Node::fanout; ++i) copy->children[i] = from.children[i].clone();
  return Slot(copy);
}

std::size_t Slot::heap_bytes() const noexcept {
  if (!is_mixed()) return 0;
  if (is_leaf()) return sizeof(Leaf) + leaf().heap_bytes();
  std::size_t bytes = sizeof(Node);
  for (const Slot& child : node().children) bytes += child.heap_bytes();
  return bytes;
}

bool operator==(const Slot& a, const Slot& b) noexcept {
  if (!a.is_mixed() || !b.is_mixed()) return a.tagged_ == b.tagged_;
  if (a.is_leaf() != b.is_leaf() || a.mixed_count() != b.mixed_count()) return false;
  if (a.is_leaf()) return a.leaf() == b.leaf();
  return a.node().dirty == b.node().dirty && a.node().full == b.node().full &&
         std::ranges::equal(a.node().children, b.node().children);
}

}  // namespace tidemark
