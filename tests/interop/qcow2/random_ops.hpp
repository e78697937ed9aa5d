// Random operations on an image and on a model of it: an array of bytes.
#pragma once

#include "task/group.hpp"
#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {

class RandomOps {
 public:
  RandomOps(Reactor& reactor, Edge& image, std::vector<std::byte> content, std::uint64_t seed,
            std::uint64_t cluster_size)
      : reactor_(reactor), image_(image), content_(std::move(content)), prng_(seed), cluster_size_(cluster_size) {}

  std::vector<std::byte>& content() noexcept { return content_; }
  // What writes may do beside plain writes.
  bool compressed = false, zeroes = true, discards = true;

  Task<> run(int count) {
    for (int i = 0; i < count; ++i) {
      // Operations side by side, on stripes of the disk that do not overlap.
      const std::uint64_t stripes = 1 + prng_.below(4);
      const std::uint64_t width = align_down(content_.size() / stripes, cluster_size_);
      if (width == 0) continue;
      auto body = [&](TaskGroup& group) -> Task<> {
        for (std::uint64_t s = 0; s < stripes; ++s) group.spawn(one({s * width, width}));
        co_await group.join();
      };
      co_await with_group(reactor_, body);
    }
  }

  Task<> one(Range within) {
    const Range range = pick(within);
    switch (prng_.below(10)) {
      case 0:
        if (zeroes) co_return co_await zero(range, WriteFlags::none);
        break;
      case 1:
        if (zeroes) co_return co_await zero(range, WriteFlags::may_unmap);
        break;
      case 2:
        if (discards) co_return co_await discard(range);
        break;
      case 3:
        if (prng_.chance(1, 4)) co_return co_await image_.flush();
        break;
      case 4:
      case 5: co_return co_await compare(range);
      case 6:
        if (compressed) co_return co_await write_compressed(range);
        break;
      default: break;
    }
    co_await write(range);
  }

  Task<> compare(Range range) {
    AlignedBuffer buffer(range.length);
    co_await image_.read(range.offset, buffer.bytes());
    const bool same = std::memcmp(buffer.data(), content_.data() + range.offset, range.length) == 0;
    EXPECT_TRUE(same) << range.length << " bytes at " << range.offset << ", " << steps_ << " steps";
  }

 private:
  Range pick(Range within) {
    ++steps_;
    const std::uint64_t unit = prng_.chance(1, 3) ? cluster_size_ : 512;
    const std::uint64_t units = within.length / unit;
    const std::uint64_t many = std::max(2 * cluster_size_, std::min(16 * cluster_size_, 512 * KiB));
    const std::uint64_t most = prng_.chance(1, 4) ? many : cluster_size_ + 64 * KiB;
    const std::uint64_t offset = prng_.below(units) * unit;
    const std::uint64_t length = (1 + prng_.below(std::max<std::uint64_t>(1, most / unit))) * unit;
    return {within.offset + offset, std::min(length, within.length - offset)};
  }
  Task<> write(Range range) {
    AlignedBuffer data(range.length);
    const auto bytes = random_bytes(prng_, range.length, prng_.chance(1, 2));
    std::copy(bytes.begin(), bytes.end(), data.data());
    co_await image_.write(range.offset, data.bytes());
    std::copy(bytes.begin(), bytes.end(), content_.begin() + static_cast<std::ptrdiff_t>(range.offset));
  }
  Task<> write_compressed(Range range) {
    range = range.narrowed(cluster_size_);
    if (range.empty()) co_return;
    AlignedBuffer data(range.length);
    const auto bytes = random_bytes(prng_, range.length, prng_.chance(7, 8));
    std::copy(bytes.begin(), bytes.end(), data.data());
    co_await image_.write_compressed(range.offset, data.bytes());
    std::copy(bytes.begin(), bytes.end(), content_.begin() + static_cast<std::ptrdiff_t>(range.offset));
  }
  Task<> zero(Range range, WriteFlags flags) {
    co_await image_.write_zeroes(range, flags);
    std::fill_n(content_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, std::byte{0});
  }
  // Whole clusters read as zeroes afterwards; the rest stays.
  Task<> discard(Range range) {
    co_await image_.discard(range);
    range = range.narrowed(cluster_size_);
    std::fill_n(content_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, std::byte{0});
  }

  Reactor& reactor_;
  Edge& image_;
  std::vector<std::byte> content_;
  Prng prng_;
  std::uint64_t cluster_size_;
  int steps_ = 0;
};

}  // namespace tidemark::test
