#include "storage/memory.hpp"

#include <algorithm>
#include <map>
#include <new>

namespace tidemark {
namespace {

constexpr std::uint64_t page_size = 64 * KiB;

class MemoryDriver final : public BlockDriver {
 public:
  explicit MemoryDriver(std::uint64_t size) : size_(size) {}

  std::string_view name() const noexcept override { return "memory"; }
  std::uint64_t size() const noexcept override { return size_; }
  bool supports_fua() const noexcept override { return true; }  // there is nothing more durable

  Task<Extent> map(Range wanted) override { co_return extent(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override;
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override { return write_zeroes(range, WriteFlags::may_unmap); }
  Task<> flush() override { co_return; }
  Task<> truncate(std::uint64_t size, Growth growth) override;
  Task<ImageInfo> info() override;
  Task<> close() override {
    pages_.clear();
    co_return;
  }

 private:
  using Page = std::unique_ptr<std::byte[]>;

  Extent extent(Range wanted) const;
  std::byte* page_to_write(std::uint64_t index);  // null when memory has run out
  void zero(Range range);

  std::uint64_t size_;
  std::map<std::uint64_t, Page> pages_;  // by offset / page_size
};

// Calls f(page index, offset in the page, bytes) for each page that the range touches.
template <class F>
void for_each_page(Range range, F&& f) {
  while (!range.empty()) {
    const std::uint64_t within = range.offset % page_size;
    const std::uint64_t part = std::min(range.length, page_size - within);
    f(range.offset / page_size, within, part);
    range = {range.offset + part, range.length - part};
  }
}

Extent MemoryDriver::extent(Range wanted) const {
  const std::uint64_t first = wanted.offset / page_size;
  auto page = pages_.lower_bound(first);
  const bool data = page != pages_.end() && page->first == first;
  std::uint64_t end = first;
  if (data) {
    for (; page != pages_.end() && page->first == end; ++page) ++end;
  } else {
    end = page == pages_.end() ? div_up(wanted.end(), page_size) : page->first;
  }
  const std::uint64_t length = std::min(wanted.end(), end * page_size) - wanted.offset;
  return {{wanted.offset, length}, data ? Mapping::data : Mapping::zero, wanted.offset};
}

Task<> MemoryDriver::read(std::uint64_t offset, Buffers into) {
  const Range range{offset, into.size()};
  for_each_page(range, [&](std::uint64_t index, std::uint64_t within, std::uint64_t part) {
    const Buffers piece = into.first(part);
    auto page = pages_.find(index);
    if (page == pages_.end())
      piece.fill_zero();
    else
      piece.copy_from({page->second.get() + within, part});
    into = into.from(part);
  });
  co_return;
}

std::byte* MemoryDriver::page_to_write(std::uint64_t index) {
  Page& page = pages_[index];
  if (!page) page.reset(new (std::nothrow) std::byte[page_size]());
  if (!page) pages_.erase(index);
  return page.get();
}

Task<> MemoryDriver::write(std::uint64_t offset, Buffers from, WriteFlags) {
  bool full = false;
  const Range range{offset, from.size()};
  for_each_page(range, [&](std::uint64_t index, std::uint64_t within, std::uint64_t part) {
    std::byte* page = full ? nullptr : page_to_write(index);
    full = !page;
    if (page) from.first(part).copy_to({page + within, part});
    from = from.from(part);
  });
  if (full) co_await Error(Errc::no_space, "memory: no memory left for the disk's content", ENOSPC);
  size_ = std::max(size_, range.end());
}

void MemoryDriver::zero(Range range) {
  // Whole pages in one sweep over those that are there, however large the range.
  const Range whole = range.narrowed(page_size);
  pages_.erase(pages_.lower_bound(whole.offset / page_size),
               pages_.lower_bound(whole.end() / page_size));
  const auto clear = [&](std::uint64_t index, std::uint64_t within, std::uint64_t part) {
    auto page = pages_.find(index);
    if (page != pages_.end()) std::fill_n(page->second.get() + within, part, std::byte{0});
  };
  if (whole.empty()) return for_each_page(range, clear);
  for_each_page({range.offset, whole.offset - range.offset}, clear);
  for_each_page({whole.end(), range.end() - whole.end()}, clear);
}

Task<> MemoryDriver::write_zeroes(Range range, WriteFlags) {
  zero(range);
  co_return;
}

Task<> MemoryDriver::truncate(std::uint64_t size, Growth) {
  if (size > max_disk_size) co_await Error(Errc::out_of_range, "memory: size is too large", EFBIG);
  if (size < size_) zero({size, align_up(size_, page_size) - size});
  size_ = size;
}

Task<ImageInfo> MemoryDriver::info() {
  ImageInfo info;
  info.filename = "memory://";
  info.format = name();
  info.virtual_size = align_up(size_, sector_size);
  info.actual_size = pages_.size() * page_size;
  co_return info;
}

}  // namespace

Result<std::unique_ptr<BlockDriver>> open_memory(MemoryOptions options) {
  if (options.size > max_disk_size)
    return Error(Errc::invalid_argument, "memory: size is too large");
  return std::unique_ptr<BlockDriver>(std::make_unique<MemoryDriver>(options.size));
}

}  // namespace tidemark
