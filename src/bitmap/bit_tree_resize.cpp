// BitTree::resize: the only operation that changes what "set up to the end" means.
//
// Slots on the path to the end are the only ones whose capacity changes.  Before the end moves out,
// those that are set but cut short are opened; after it moved in, those that became all set are
// settled.
#include "bitmap/bit_tree.hpp"

namespace tidemark {

void BitTree::resize(std::uint64_t new_size) noexcept {
  const unsigned height = height_for(new_size);
  if (new_size < size_) {
    assign(new_size, size_, false);
    lower(height);
    size_ = new_size;
    settle_end(root_, height_, 0);
  } else if (new_size > size_) {
    open_end(root_, height_, 0);
    raise(height);
    size_ = new_size;
  }
}

void BitTree::open_end(Slot& slot, unsigned level, std::uint64_t start) noexcept {
  if (slot.is_set() && size_ - start < span(level)) open(slot, level, start);
  if (!slot.is_mixed() || level == 0) return;
  const unsigned child = child_of(level, size_ - 1);
  open_end(slot.node().children[child], level - 1, align_down(size_ - 1, span(level - 1)));
  slot.node().refresh(child);
}

void BitTree::settle_end(Slot& slot, unsigned level, std::uint64_t start) noexcept {
  if (!slot.is_mixed()) return;
  if (level > 0) {
    const unsigned child = child_of(level, size_ - 1);
    settle_end(slot.node().children[child], level - 1, align_down(size_ - 1, span(level - 1)));
    slot.node().refresh(child);
  }
  settle(slot, level, start);
}

void BitTree::raise(unsigned height) noexcept {
  for (; height_ < height; ++height_) {
    if (root_.is_clear()) continue;
    Node* node = new Node;
    node->count = count();
    node->children[0] = std::move(root_);
    node->refresh(0);
    root_ = Slot(node);
  }
}

void BitTree::lower(unsigned height) noexcept {
  for (; height_ > height; --height_) {
    if (!root_.is_mixed()) continue;
    Slot first = std::move(root_.node().children[0]);
    root_ = std::move(first);
  }
}

}  // namespace tidemark
