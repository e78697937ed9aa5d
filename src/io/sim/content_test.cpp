// SparseContent and IntervalSet against plain models.
#include "io/sim/content.hpp"

#include <gtest/gtest.h>

#include <set>

#include "base/random.hpp"

namespace tidemark {
namespace {

TEST(IntervalSet, IsASetOfNumbers) {
  Prng prng(1);
  IntervalSet set, other;
  std::set<std::uint64_t> model, other_model;
  for (int round = 0; round < 20'000; ++round) {
    const std::uint64_t first = prng.below(200), end = first + prng.below(40);
    switch (prng.below(4)) {
      case 0:
        set.add(first, end);
        for (auto i = first; i < end; ++i) model.insert(i);
        break;
      case 1:
        set.remove(first, end);
        for (auto i = first; i < end; ++i) model.erase(i);
        break;
      case 2:
        other.copy(set, first, end);
        for (auto i = first; i < end; ++i) {
          other_model.erase(i);
          if (model.contains(i)) other_model.insert(i);
        }
        break;
      default: std::swap(set, other), std::swap(model, other_model);
    }
    ASSERT_EQ(set.count(), model.size());
    const auto in = std::distance(model.lower_bound(first), model.lower_bound(end));
    ASSERT_EQ(set.count_in(first, end), static_cast<std::uint64_t>(in));
  }
}

class ContentModel {
 public:
  static constexpr std::uint64_t span = 10 * SparseContent::page_size;

  void change(Prng& prng) {
    const Range range = some_range(prng);
    switch (prng.below(5)) {
      case 0: return write(range, prng);
      case 1: content_.zero(range); return fill(range, std::byte{0});
      case 2: content_.punch(range); return fill(range, std::byte{0});
      case 3: content_.resize(range.offset); return bytes_.resize(range.offset);
      default: content_.reserve(range); return grow(range.end());
    }
  }
  void check() const {
    ASSERT_EQ(content_.size(), bytes_.size());
    std::vector<std::byte> read(span + 100);
    content_.read(0, read);
    std::vector<std::byte> expected = bytes_;
    expected.resize(read.size());
    ASSERT_EQ(read, expected);
    check_extents();
  }
  const SparseContent& content() const { return content_; }

 private:
  static Range some_range(Prng& prng) {
    const std::uint64_t offset = prng.below(span);
    return {offset, 1 + prng.below(span - offset)};
  }
  void grow(std::uint64_t size) { bytes_.resize(std::max<std::uint64_t>(bytes_.size(), size)); }
  void fill(Range range, std::byte value) {
    for (std::uint64_t i = range.offset; i < std::min<std::uint64_t>(range.end(), bytes_.size()); ++i)
      bytes_[i] = value;
  }
  void write(Range range, Prng& prng) {
    const auto value = static_cast<std::byte>(1 + prng.below(255));
    content_.write(range.offset, std::vector(range.length, value));
    grow(range.end());
    fill(range, value);
  }
  void check_extents() const {
    std::uint64_t at = 0;
    while (at < bytes_.size()) {
      const FileExtent extent = content_.extent(at);
      ASSERT_GT(extent.length, 0u);
      ASSERT_LE(extent.length, bytes_.size() - at);
      if (!extent.data) {
        ASSERT_TRUE(is_zero(Bytes(bytes_).subspan(at, extent.length)));
      }
      at += extent.length;
    }
    ASSERT_EQ(content_.extent(at).length, 0u);
  }

  SparseContent content_;
  std::vector<std::byte> bytes_;
};

TEST(SparseContent, IsAnArrayOfBytes) {
  Prng prng(2);
  ContentModel model;
  for (int round = 0; round < 3000; ++round) {
    model.change(prng);
    ASSERT_NO_FATAL_FAILURE(model.check());
  }
}

TEST(SparseContent, CopiesAreIndependent) {
  Prng prng(3);
  ContentModel model;
  for (int round = 0; round < 500; ++round) {
    const ContentModel before = model;
    for (int i = 0; i < 3; ++i) model.change(prng);
    ASSERT_NO_FATAL_FAILURE(before.check());
    ASSERT_NO_FATAL_FAILURE(model.check());
  }
}

TEST(SparseContent, CopyMakesARangeAsInTheOther) {
  Prng prng(4);
  for (int round = 0; round < 300; ++round) {
    ContentModel a, b;
    for (int i = 0; i < 8; ++i) a.change(prng), b.change(prng);
    SparseContent to = a.content();
    const Range range{prng.below(ContentModel::span), 1 + prng.below(ContentModel::span)};
    to.copy(b.content(), range);
    std::vector<std::byte> expected(2 * ContentModel::span), got = expected;
    a.content().read(0, expected);
    b.content().read(range.offset, std::span(expected).subspan(range.offset, range.length));
    to.read(0, got);
    ASSERT_EQ(got, expected);
    to.resize(0);
    ASSERT_EQ(to.allocated(), 0u);
  }
}

TEST(SparseContent, HugeSparseFilesCostTheirPages) {
  SparseContent content;
  const std::byte byte{7};
  content.resize(16 * TiB);
  content.write(15 * TiB + 5, {&byte, 1});
  content.write(3, {&byte, 1});
  EXPECT_EQ(content.allocated(), 2 * SparseContent::page_size);
  EXPECT_EQ(content.extent(SparseContent::page_size).length, 15 * TiB - SparseContent::page_size);
  content.punch({0, 16 * TiB});
  EXPECT_EQ(content.allocated(), 0u);
  EXPECT_EQ(content.size(), 16 * TiB);
  EXPECT_EQ(content.extent(0).length, 16 * TiB);
  EXPECT_EQ(content.missing({0, 16 * TiB}), 16 * TiB);
}

TEST(SparseContent, WhatIsReservedIsAllocatedAndNoData) {
  SparseContent content;
  content.reserve({100, MiB});
  EXPECT_EQ(content.size(), MiB + 100);
  EXPECT_EQ(content.allocated(), MiB + SparseContent::page_size);
  EXPECT_FALSE(content.extent(0).data);
  EXPECT_EQ(content.missing({0, MiB}), 0u);
  content.zero({0, 2 * MiB});
  EXPECT_EQ(content.missing({0, MiB}), 0u);
  content.punch({0, MiB / 2});
  EXPECT_EQ(content.missing({0, MiB}), MiB / 2);
}

}  // namespace
}  // namespace tidemark
