#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "base/paths.hpp"
#include "base/random.hpp"
#include "base/range_set.hpp"
#include "base/units.hpp"
#include "base/utf8.hpp"

namespace tidemark {
namespace {

TEST(Utf8, WhatIsShownIsOneLineOfText) {
  EXPECT_EQ(printable("disk \xc3\xa4 \xe2\x82\xac '\\'"), "disk \xc3\xa4 \xe2\x82\xac '\\'");
  EXPECT_EQ(printable("a\x1b[2J\n\t\x7f"), "a\\x1b[2J\\x0a\\x09\\x7f");
  EXPECT_EQ(printable("\xc2\x9b!\xff\xfe\xe2\x82"), "\\xc2\\x9b!\\xff\\xfe\\xe2\\x82");
  EXPECT_EQ(printable(std::string("\0", 1)), "\\x00");
  EXPECT_EQ(printable(""), "");
}

// Above a link ".." leads to where the link leads, and not back.
TEST(Paths, ArePlainAsFarAsTheyLeadToTheSame) {
  namespace files = std::filesystem;
  std::string made = files::temp_directory_path() / "tidemark-paths-XXXXXX";
  ASSERT_NE(::mkdtemp(made.data()), nullptr);
  const files::path top = made;
  files::create_directories(top / "real/sub");
  files::create_directory(top / "links");
  files::create_directory_symlink("../real/sub", top / "links/link");
  EXPECT_EQ(plain_path(top / "real/./sub//new"), (top / "real/sub/new").string());
  EXPECT_EQ(plain_path(top / "real/sub/../new"), (top / "real/new").string());
  EXPECT_EQ(plain_path(top / "links/link/../new"), (top / "links/link/../new").string());
  EXPECT_EQ(plain_path(top / "gone/../new"), (top / "gone/../new").string());
  EXPECT_EQ(absolute_path((top / "real/sub/../new").string()), (top / "real/new").string());
  EXPECT_EQ(absolute_path("a/b"), (files::current_path() / "a/b").string());
  files::remove_all(top);
}

TEST(Paths, OfFilesAreNoProtocols) {
  const std::string here = std::filesystem::current_path().string();
  const struct {
    const char *image, *base;
    std::string name;
  } all[] = {{"o", "b", "b"},           {"d/o", "d/b", "b"},         {"./o", "b", "b"},         {"e/o", "d/b", here + "/d/b"},
             {"d/o", "/d/b", "/d/b"},   {"d/o", "nbd://h/x", "nbd://h/x"}, {"d/o", "json:{}", "json:{}"},
             {"d/o", "d/b:c", "./b:c"}, {"o", "./b:c", "./b:c"},     {"d/o", "./b:c", here + "/b:c"}, {"/d/o", "/d/b:c", "/d/b:c"}};
  for (const auto& one : all) EXPECT_EQ(name_from(one.image, one.base), one.name) << one.image << ' ' << one.base;
  EXPECT_EQ(file_not_protocol("b:c"), "./b:c");
  EXPECT_EQ(file_not_protocol("b/c:d"), "b/c:d");
}

TEST(Bytes, StoresAndLoadsInBothOrders) {
  std::array<std::byte, 9> memory{};
  std::byte* odd = memory.data() + 1;
  store_be<std::uint32_t>(odd, 0x01020304);
  EXPECT_EQ(odd[0], std::byte{1});
  EXPECT_EQ(load_be<std::uint32_t>(odd), 0x01020304u);
  EXPECT_EQ(load_le<std::uint32_t>(odd), 0x04030201u);
  store_le<std::uint64_t>(odd, 0x0102030405060708);
  EXPECT_EQ(odd[0], std::byte{8});
  EXPECT_EQ(load_le<std::uint64_t>(odd), 0x0102030405060708u);
  EXPECT_EQ(load_be<std::uint64_t>(odd), 0x0807060504030201u);
  store_be<std::uint16_t>(odd, 0xfffe);
  EXPECT_EQ(load_be<std::uint16_t>(odd), 0xfffeu);
  store_be<std::uint8_t>(odd, 7);
  EXPECT_EQ(load_le<std::uint8_t>(odd), 7u);
}

TEST(Bytes, SeesEveryByteThatIsNotZero) {
  for (std::size_t size : {0, 1, 7, 15, 16, 17, 31, 64, 100, 4096}) {
    std::vector<std::byte> memory(size);
    EXPECT_TRUE(is_zero(memory)) << size;
    for (std::size_t at = 0; at < size; ++at) {
      memory[at] = std::byte{1};
      EXPECT_FALSE(is_zero(memory)) << size << " " << at;
      memory[at] = std::byte{0};
    }
  }
}

TEST(Bytes, ViewsText) {
  const std::string_view text = "abc";
  EXPECT_EQ(as_bytes(text).size(), 3u);
  EXPECT_EQ(as_text(as_bytes(text)), text);
}

TEST(Units, ArithmeticSaysWhenItDoesNotFit) {
  std::uint64_t result = 0;
  EXPECT_TRUE(checked_add(~0ull - 1, 1, result));
  EXPECT_EQ(result, ~0ull);
  EXPECT_FALSE(checked_add(~0ull, 1, result));
  EXPECT_TRUE(checked_mul(1ull << 32, (1ull << 32) - 1, result));
  EXPECT_FALSE(checked_mul(1ull << 32, 1ull << 32, result));
  EXPECT_EQ(div_up(0, 4), 0u);
  EXPECT_EQ(div_up(9, 4), 3u);
  EXPECT_EQ(div_up(~0ull, 2), 1ull << 63);
  EXPECT_EQ(log2_of(64 * KiB), 16u);
}

TEST(Units, ARequestFitsOrNot) {
  EXPECT_TRUE(fits(0, 10, 10));
  EXPECT_TRUE(fits(10, 0, 10));
  EXPECT_FALSE(fits(11, 0, 10));
  EXPECT_FALSE(fits(1, 10, 10));
  EXPECT_FALSE(fits(~0ull, 2, 10));
  EXPECT_FALSE(fits(2, ~0ull, 10));
}

TEST(Units, RangesMeetAndRound) {
  const Range a = {100, 50};
  EXPECT_TRUE(a.contains(100));
  EXPECT_TRUE(a.contains(149));
  EXPECT_FALSE(a.contains(150));
  EXPECT_TRUE(a.overlaps({149, 1}));
  EXPECT_FALSE(a.overlaps({150, 10}));
  EXPECT_FALSE(a.overlaps({90, 10}));
  EXPECT_EQ(a.intersect({120, 100}), (Range{120, 30}));
  EXPECT_TRUE(a.intersect({150, 10}).empty());
  EXPECT_EQ(a.widened(64), (Range{64, 128}));
  EXPECT_EQ(a.narrowed(64), (Range{128, 0}));
  EXPECT_EQ((Range{100, 100}).narrowed(64), (Range{128, 64}));
}

TEST(Errors, TakeTheSystemsTextAndKind) {
  const Error error = Error::from_errno(ENOENT, "open 'a.img'");
  EXPECT_EQ(error.code(), Errc::not_found);
  EXPECT_EQ(error.message(), "open 'a.img': No such file or directory");
  EXPECT_EQ(error.os_errno(), ENOENT);
  EXPECT_EQ(error.to_errno(), ENOENT);
  EXPECT_EQ(Error::from_errno(99'999, "x").code(), Errc::io);
}

TEST(Errors, HaveAnErrnoForPeers) {
  EXPECT_EQ(Error(Errc::no_space, "full").to_errno(), ENOSPC);
  EXPECT_EQ(Error(Errc::out_of_range, "beyond").to_errno(), EINVAL);
  EXPECT_EQ(Error(Errc::corrupt, "damaged").to_errno(), EIO);
  EXPECT_EQ(Error(Errc::io, "late", ESTALE).to_errno(), ESTALE);
}

TEST(Errors, GainContext) {
  const Error error = Error(Errc::busy, "locked", EAGAIN).with_context("disk0");
  EXPECT_EQ(error.message(), "disk0: locked");
  EXPECT_EQ(error.code(), Errc::busy);
  EXPECT_EQ(error.os_errno(), EAGAIN);
}

TEST(Results, HoldAValueOrAnError) {
  Result<std::string> good = std::string("text");
  EXPECT_TRUE(good);
  EXPECT_EQ(*good, "text");
  EXPECT_EQ(good->size(), 4u);
  const Result<std::string> bad = Error(Errc::io, "no");
  EXPECT_FALSE(bad);
  EXPECT_EQ(bad.error().message(), "no");
  Result<> nothing;
  EXPECT_TRUE(nothing.ok());
  nothing = Error(Errc::io, "no");
  EXPECT_FALSE(nothing.ok());
}

TEST(ResultsDeathTest, AreNotReadUnseen) {
  const Result<int> bad = Error(Errc::io, "no");
  EXPECT_DEATH((void)*bad, "assertion failed");
  const Result<int> good = 1;
  EXPECT_DEATH((void)good.error(), "assertion failed");
}

TEST(Prng, IsTheAlgorithmItSays) {
  Prng prng(42);                                 // computed from the paper's reference code
  EXPECT_EQ(prng(), 0x15780b2e0c2ec716u);
  EXPECT_EQ(prng(), 0x6104d9866d113a7eu);
  EXPECT_EQ(prng(), 0xae17533239e499a1u);
}

TEST(Prng, StaysBelowItsBound) {
  Prng prng(7);
  std::array<int, 10> seen{};
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t n = prng.below(10);
    ASSERT_LT(n, 10u);
    ++seen[n];
  }
  for (int count : seen) EXPECT_GT(count, 800);
  EXPECT_FALSE(prng.chance(0, 5));
  EXPECT_TRUE(prng.chance(5, 5));
}

TEST(RangeSetTest, IsAsASetOfBytes) {
  Prng prng(5);
  for (int round = 0; round < 200; ++round) {
    constexpr std::uint64_t size = 60;
    RangeSet set;
    std::vector<bool> model(size);
    for (int step = 0; step < 20; ++step) {
      const std::uint64_t offset = prng.below(size), length = prng.below(std::min<std::uint64_t>(size - offset, 12) + 1);
      const Range range{offset, length};
      std::vector<bool> outside(size);
      for (const Range& part : set.outside(range)) {
        EXPECT_FALSE(part.empty());
        for (std::uint64_t at = part.offset; at < part.end(); ++at) outside[at] = true;
      }
      bool meets = false;
      for (std::uint64_t at = 0; at < size; ++at) {
        const bool wanted = at >= offset && at < offset + length;
        EXPECT_EQ(outside[at], wanted && !model[at]);
        meets = meets || (wanted && model[at]);
      }
      EXPECT_EQ(set.meets(range), meets);
      if (prng.below(2) == 0) continue;
      set.add(range);
      for (std::uint64_t at = offset; at < offset + length; ++at) model[at] = true;
    }
  }
}

}  // namespace
}  // namespace tidemark
