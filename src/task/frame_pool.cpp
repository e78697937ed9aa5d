#include "task/frame_pool.hpp"

#include <array>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TM_POOL_FRAMES 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TM_POOL_FRAMES 0
#endif
#endif
#ifndef TM_POOL_FRAMES
#define TM_POOL_FRAMES 1
#endif

namespace tidemark::detail {
namespace {

constexpr std::size_t class_size = 64;
constexpr std::size_t class_count = 32;        // frames up to 2 KiB are pooled
constexpr std::size_t kept_max = 1024;         // free frames kept of each class

struct FreeFrame {
  FreeFrame* next;
};

struct Pool {
  std::array<FreeFrame*, class_count> free{};
  std::array<std::size_t, class_count> kept{};
  ~Pool() {
    for (FreeFrame* frame : free)
      while (frame) ::operator delete(std::exchange(frame, frame->next));
    kept.fill(kept_max);                       // frames freed after this thread's pool go straight back
    free.fill(nullptr);
  }
};

thread_local Pool pool;

}  // namespace

void* allocate_frame(std::size_t size) {
  const std::size_t index = (size + class_size - 1) / class_size;
  if (!TM_POOL_FRAMES || index >= class_count) return ::operator new(size);
  if (FreeFrame* frame = pool.free[index]) {
    pool.free[index] = frame->next;
    --pool.kept[index];
    return frame;
  }
  return ::operator new(index * class_size);
}

void free_frame(void* memory, std::size_t size) noexcept {
  const std::size_t index = (size + class_size - 1) / class_size;
  if (!TM_POOL_FRAMES || index >= class_count || pool.kept[index] >= kept_max)
    return ::operator delete(memory);
  auto* frame = static_cast<FreeFrame*>(memory);
  frame->next = pool.free[index];
  pool.free[index] = frame;
  ++pool.kept[index];
}

}  // namespace tidemark::detail
