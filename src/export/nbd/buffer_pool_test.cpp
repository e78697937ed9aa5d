#include "export/nbd/buffer_pool.hpp"

#include <gtest/gtest.h>

namespace tidemark {
namespace {

TEST(BufferPool, GivesAlignedMemoryOfAtLeastTheSize) {
  BufferPool pool(1 * MiB);
  for (std::size_t size : {0u, 1u, 4096u, 4097u, 100'000u}) {
    PooledBuffer buffer = pool.take(size);
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % AlignedBuffer::alignment, 0u);
  }
}

TEST(BufferPool, HandsOutAgainWhatCameBack) {
  BufferPool pool(1 * MiB);
  std::byte* first = pool.take(5000).data();
  EXPECT_EQ(pool.kept(), 8192u);
  PooledBuffer again = pool.take(8192);
  EXPECT_EQ(again.data(), first);
  EXPECT_EQ(pool.kept(), 0u);
}

TEST(BufferPool, KeepsNoMoreThanItsLimit) {
  BufferPool pool(10'000);
  { auto a = pool.take(4096), b = pool.take(4096), c = pool.take(4096); }
  EXPECT_EQ(pool.kept(), 8192u);
  pool.clear();
  EXPECT_EQ(pool.kept(), 0u);
}

TEST(BufferPool, MovedBuffersComeBackOnce) {
  BufferPool pool(1 * MiB);
  PooledBuffer a = pool.take(4096);
  PooledBuffer b = std::move(a);
  a = pool.take(4096);
  a = std::move(b);
  b = PooledBuffer();
  a = PooledBuffer();
  EXPECT_EQ(pool.kept(), 8192u);
}

}  // namespace
}  // namespace tidemark
