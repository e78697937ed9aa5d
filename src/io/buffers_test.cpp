#include "io/buffers.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/random.hpp"
#include "io/aligned.hpp"

namespace tidemark {
namespace {

// A text in pieces of random sizes, some of them empty.
class Scattered {
 public:
  Scattered(std::size_t size, Prng& prng) : text(size, '\0') {
    for (char& c : text) c = static_cast<char>('a' + prng.below(26));
    for (std::size_t at = 0; at < size;) {
      const std::size_t n = std::min<std::size_t>(prng.below(20), size - at);
      pieces.push_back({text.data() + at, n});
      at += n;
    }
  }
  Buffers view() const { return Buffers(std::span<const iovec>(pieces)); }
  std::string text;
  std::vector<iovec> pieces;
};

std::string content(const Buffers& buffers) {
  std::string text(buffers.size(), '?');
  buffers.copy_to(std::as_writable_bytes(std::span(text)));
  return text;
}

TEST(Buffers, SlicesAreWhatTheTextIs) {
  Prng prng(1);
  for (int round = 0; round < 2000; ++round) {
    const Scattered scattered(prng.below(200), prng);
    Buffers view = scattered.view();
    std::string model = scattered.text;
    for (int cut = 0; cut < 4; ++cut) {
      const std::size_t from = prng.below(model.size() + 1);
      const std::size_t length = prng.below(model.size() - from + 1);
      view = view.slice(from, length);
      model = model.substr(from, length);
      ASSERT_EQ(view.size(), model.size());
      ASSERT_EQ(content(view), model);
      if (view.contiguous()) {
        ASSERT_EQ(as_text(view.as_contiguous()), model);
      }
    }
  }
}

TEST(Buffers, GathersWhatFits) {
  Prng prng(2);
  const Scattered scattered(500, prng);
  const Buffers view = scattered.view().from(3);
  std::vector<iovec> all;
  EXPECT_EQ(view.gather(all), 497u);
  EXPECT_EQ(content(Buffers(std::span<const iovec>(all))), scattered.text.substr(3));
  std::vector<iovec> some;
  const std::size_t covered = view.gather(some, 5);
  EXPECT_EQ(some.size(), 5u);
  EXPECT_EQ(content(view.first(covered)), content(Buffers(std::span<const iovec>(some))));
  std::vector<iovec> room(5);
  EXPECT_EQ(view.gather(std::span(room)), 5u);
  EXPECT_EQ(content(Buffers(std::span<const iovec>(room))), content(view.first(covered)));
  for (const iovec& piece : all) EXPECT_NE(piece.iov_len, 0u);
}

TEST(Buffers, FillsAndComparesWithZero) {
  Prng prng(3);
  Scattered scattered(300, prng);
  const Buffers middle = scattered.view().slice(100, 100);
  const std::string before = scattered.text;
  EXPECT_FALSE(middle.all_zero());
  middle.fill_zero();
  EXPECT_TRUE(middle.all_zero());
  EXPECT_EQ(scattered.text, before.substr(0, 100) + std::string(100, '\0') + before.substr(200));
  scattered.text[199] = 'x';
  EXPECT_FALSE(middle.all_zero());
  EXPECT_TRUE(Buffers().all_zero());
}

TEST(Buffers, KnowsWhatIsAligned) {
  AlignedBuffer memory(8192);
  EXPECT_TRUE(Buffers(memory.bytes()).aligned(4096));
  EXPECT_FALSE(Buffers(memory.bytes()).first(4095).aligned(512));
  EXPECT_FALSE(Buffers(memory.bytes()).from(1).aligned(2));
  const std::vector<iovec> pieces = {{memory.data(), 512}, {memory.data() + 1024, 512}};
  EXPECT_TRUE(Buffers(std::span<const iovec>(pieces)).aligned(512));
  EXPECT_FALSE(Buffers(std::span<const iovec>(pieces)).aligned(1024));
}

TEST(Buffers, OnePieceNeedsNoList) {
  std::string text = "hello";
  const Buffers view = Buffers::of_const(as_bytes(text));
  const std::vector<iovec> one = {{text.data(), 5}};
  const Buffers listed{std::span<const iovec>(one)};
  EXPECT_TRUE(view.contiguous());
  EXPECT_TRUE(listed.contiguous());
  EXPECT_EQ(listed.as_contiguous().data(), view.as_contiguous().data());
}

TEST(BuffersDeathTest, ASliceStaysInside) {
  std::string text = "hello";
  const Buffers view = Buffers::of_const(as_bytes(text));
  EXPECT_DEATH((void)view.slice(3, 3), "assertion failed");
  EXPECT_DEATH((void)view.slice(6, 0), "assertion failed");
}

}  // namespace
}  // namespace tidemark
