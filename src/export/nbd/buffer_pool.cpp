#include "export/nbd/buffer_pool.hpp"

#include <bit>

namespace tidemark {

unsigned BufferPool::class_of(std::size_t size) noexcept {
  TM_ASSERT(size <= size_max);
  if (size <= size_min) return 0;
  return static_cast<unsigned>(std::bit_width(size - 1)) - size_min_log2;
}

PooledBuffer BufferPool::take(std::size_t size) {
  const unsigned index = class_of(size);
  auto& free = free_[index];
  ++taken_;
  if (free.empty()) return {*this, AlignedBuffer(size_min << index), size};
  AlignedBuffer memory = std::move(free.back());
  free.pop_back();
  kept_ -= memory.size();
  return {*this, std::move(memory), size};
}

void BufferPool::give_back(AlignedBuffer memory) noexcept {
  --taken_;
  if (memory.size() > kept_max_ - kept_) return;
  kept_ += memory.size();
  free_[class_of(memory.size())].push_back(std::move(memory));
}

void BufferPool::clear() noexcept {
  for (auto& free : free_) free.clear();
  kept_ = 0;
}

PooledBuffer::~PooledBuffer() {
  if (pool_) pool_->give_back(std::move(memory_));
}

}  // namespace tidemark
