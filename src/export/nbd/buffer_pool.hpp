// BufferPool: aligned memory for the data of requests, kept and handed out again.
//
// One thread.  Sizes are rounded up to a power of two (memory that nobody touches costs nothing); what
// comes back is kept up to `kept_max` bytes.  The pool outlives its buffers (asserted).
#pragma once

#include <array>
#include <vector>

#include "base/units.hpp"
#include "io/aligned.hpp"

namespace tidemark {

class BufferPool;

// Owns `size` bytes until it goes; none when default made.
class PooledBuffer {
 public:
  PooledBuffer() = default;
  PooledBuffer(PooledBuffer&& o) noexcept
      : pool_(std::exchange(o.pool_, nullptr)), memory_(std::move(o.memory_)), size_(o.size_) {}
  PooledBuffer& operator=(PooledBuffer&& o) noexcept {
    std::swap(pool_, o.pool_);
    std::swap(memory_, o.memory_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~PooledBuffer();

  std::byte* data() noexcept { return memory_.data(); }
  std::size_t size() const noexcept { return size_; }
  MutableBytes bytes() noexcept { return {memory_.data(), size_}; }

 private:
  friend class BufferPool;
  PooledBuffer(BufferPool& pool, AlignedBuffer memory, std::size_t size)
      : pool_(&pool), memory_(std::move(memory)), size_(size) {}

  BufferPool* pool_ = nullptr;
  AlignedBuffer memory_;
  std::size_t size_ = 0;
};

class BufferPool {
 public:
  static constexpr std::size_t size_min = 4 * KiB;
  static constexpr std::size_t size_max = 64 * MiB;

  explicit BufferPool(std::size_t kept_max) : kept_max_(kept_max) {}
  BufferPool(const BufferPool&) = delete;
  ~BufferPool() { TM_ASSERT(taken_ == 0); }

  PooledBuffer take(std::size_t size);          // at most size_max
  std::size_t kept() const noexcept { return kept_; }
  void clear() noexcept;                        // gives back to the system what nobody holds

 private:
  friend class PooledBuffer;
  static constexpr unsigned size_min_log2 = 12;
  static constexpr unsigned classes = 15;       // 4 KiB to 64 MiB
  static unsigned class_of(std::size_t size) noexcept;
  void give_back(AlignedBuffer memory) noexcept;

  std::size_t kept_max_;
  std::size_t kept_ = 0;
  std::size_t taken_ = 0;
  std::array<std::vector<AlignedBuffer>, classes> free_;
};

}  // namespace tidemark
