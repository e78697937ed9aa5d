// Every combination of what an image can be: made by QEMU and used by us, made by us and used by QEMU, in turns, the
// contents compared and the image checked after each turn.
//
// Every pair of values that can stand together stands together in one combination at least; with TIDEMARK_MATRIX=full in
// the environment all combinations are tried, which takes long; with full@N-M the Nth to the Mth of them.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <set>

#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

// Which of the values of each axis.
enum Axis : std::size_t { cluster_size, refcount_bits, version, extended_l2, lazy, compression, data_file, preallocation, below, maker };
using Combination = std::array<std::size_t, 10>;
constexpr Combination axis_sizes = {4, 7, 2, 2, 2, 2, 2, 4, 2, 2};
constexpr std::uint64_t cluster_sizes[] = {512, 4 * KiB, 64 * KiB, 2 * MiB};
constexpr const char* preallocations[] = {"off", "metadata", "falloc", "full"};
constexpr std::size_t bits_16 = 4, large_enough = 2;

bool can_be(const Combination& c) {
  const bool old = c[version] != 0;
  if (old && (c[refcount_bits] != bits_16 || c[extended_l2] || c[lazy] || c[compression] || c[data_file])) return false;
  if (c[extended_l2] && c[cluster_size] < large_enough) return false;
  if (c[data_file] && c[below]) return false;                      // a raw one shows the disk alone
  return !c[preallocation] || !c[below] || c[extended_l2];         // QEMU's rule
}

std::string name_of(const Combination& c) {
  return fmt::format("cluster_size={},refcount_bits={},compat={},extended_l2={},lazy_refcounts={},compression_type={},preallocation={}",
                     cluster_sizes[c[cluster_size]], 1 << c[refcount_bits], c[version] ? "0.10" : "1.1", c[extended_l2] ? "on" : "off",
                     c[lazy] ? "on" : "off", c[compression] ? "zstd" : "zlib", preallocations[c[preallocation]]) +
         (c[data_file] ? ",data_file=a.data,data_file_raw=on" : "");
}

std::vector<Combination> all_combinations() {
  std::vector<Combination> all;
  Combination c{};
  for (;;) {
    if (can_be(c)) all.push_back(c);
    std::size_t axis = 0;
    while (axis < c.size() && ++c[axis] == axis_sizes[axis]) c[axis++] = 0;
    if (axis == c.size()) return all;
  }
}

// Those that show a pair that none before has shown, of all in an order by chance.
std::vector<Combination> pairs_of(std::vector<Combination> all) {
  Prng prng(7);
  for (std::size_t i = all.size(); i > 1; --i) std::swap(all[i - 1], all[prng.below(i)]);
  std::set<std::array<std::size_t, 4>> seen;
  std::vector<Combination> chosen;
  for (const Combination& c : all) {
    const std::size_t before = seen.size();
    for (std::size_t a = 0; a < c.size(); ++a)
      for (std::size_t b = a + 1; b < c.size(); ++b) seen.insert({a, c[a], b, c[b]});
    if (seen.size() != before) chosen.push_back(c);
  }
  return chosen;
}

class Matrix : public ImageTest {
 protected:
  // An image, from its making to its last reader.
  class Life {
   public:
    Life(Matrix& test, const Combination& c, std::uint64_t seed)
        : test_(test), c_(c), prng_(seed), cluster_(cluster_sizes[c[cluster_size]]),
          content_(std::max(2 * MiB, 4 * cluster_) + 3 * sector_size) {}

    void run() {
      make();
      if (c_[maker]) use_by_qemu();
      use_by_us();
      use_by_qemu();
      use_by_us();
      if (has_snapshot_) expect_snapshot();
    }

   private:
    void make() {
      if (c_[below]) {
        content_ = random_bytes(prng_, content_.size(), true);
        test_.write_file("base.raw", content_);
      }
      if (c_[maker] == 0) {
        test_.qemu_img(fmt::format("create -q -f qcow2 -o {} {} a.qcow2 {}", name_of(c_), c_[below] ? "-b base.raw -F raw" : "",
                                   content_.size()));
        return;
      }
      Qcow2CreateOptions options;
      options.size = content_.size();
      options.cluster_size = cluster_;
      options.version = c_[version] ? 2 : 3;
      options.refcount_bits = 1u << c_[refcount_bits];
      options.compression = c_[compression] ? qcow2::CompressionType::zstd : qcow2::CompressionType::zlib;
      options.lazy_refcounts = c_[lazy];
      options.extended_l2 = c_[extended_l2];
      options.preallocation = static_cast<Qcow2Preallocation>(c_[preallocation]);
      if (c_[below]) options.backing_file = "base.raw", options.backing_format = "raw";
      if (c_[data_file]) options.data_file = "a.data", options.data_file_raw = true;
      test_.create("a.qcow2", options);
    }

    // Clusters of few refcount bits cannot be shared.
    bool can_share() const { return !c_[data_file] && c_[refcount_bits] >= 2; }

    void operate(Edge& image) {
      RandomOps ops(*test_.reactor_, image, content_, prng_(), cluster_);
      ops.compressed = !c_[data_file] && c_[refcount_bits] >= 3;       // many share a cluster
      ops.discards = !c_[version] || !c_[below];                      // an old one shows what is below then
      test_.run(ops.run(5));
      test_.run(ops.compare({0, content_.size()}));
      content_ = ops.content();
    }

    void use_by_us() {
      Edge& image = test_.open("a.qcow2");
      operate(image);
      if (can_share() && !has_snapshot_) {
        Qcow2Snapshot snapshot;
        snapshot.name = "then";
        test_.run(dynamic_cast<Qcow2Driver&>(image.node().driver()).create_snapshot(snapshot));
        then_ = content_;
        has_snapshot_ = true;
        operate(image);
      }
      if (!c_[version] || !has_snapshot_) {
        const std::uint64_t size = content_.size() + (prng_.chance(1, 2) ? cluster_ + sector_size : -MiB);
        test_.run(image.truncate(size));
        content_.resize(size);
        operate(image);
      }
      test_.close_all();
      test_.expect_clean("a.qcow2");
      test_.expect_content("a.qcow2", content_);
      if (c_[data_file]) expect_raw();
    }

    void use_by_qemu() {
      std::string commands;
      for (int i = 0; i < 6; ++i) {
        const std::uint64_t unit = prng_.chance(1, 2) ? std::min<std::uint64_t>(cluster_, 64 * KiB) : sector_size;
        const std::uint64_t at = prng_.below(content_.size() / unit) * unit;
        const std::uint64_t length = std::min(content_.size() - at, (1 + prng_.below(3 * cluster_ / unit)) * unit);
        const unsigned pattern = i < 4 ? static_cast<unsigned>(1 + prng_.below(255)) : 0;
        std::fill_n(content_.begin() + static_cast<std::ptrdiff_t>(at), length, static_cast<std::byte>(pattern));
        if (pattern != 0) commands += fmt::format(" -c 'write -P {} {} {}'", pattern, at, length);
        else commands += fmt::format(" -c 'write {} {} {}'", i == 4 ? "-z" : "-z -u", at, length);
      }
      const Output used = run_shell(fmt::format("cd '{}' && qemu-io -f qcow2{} a.qcow2", test_.directory_, commands));
      EXPECT_EQ(used.status, 0) << used.text;
      test_.expect_clean("a.qcow2");
      test_.expect_content("a.qcow2", content_);
    }

    // QEMU shows a snapshot in the disk's present size.
    void expect_snapshot() {
      test_.qemu_img("convert -q -f qcow2 -l snapshot.name=then -O raw a.qcow2 then.raw");
      test_.write_file("expected.raw", then_);
      EXPECT_EQ(run_shell("cd '" + test_.directory_ + "' && cmp -n " + std::to_string(std::min(content_.size(), then_.size())) +
                          " then.raw expected.raw").text, "");
    }

    void expect_raw() {
      const Output same = run_shell("cd '" + test_.directory_ + "' && cmp a.data expected.raw");
      EXPECT_EQ(same.text, "");
    }

    Matrix& test_;
    const Combination c_;
    Prng prng_;
    const std::uint64_t cluster_;
    std::vector<std::byte> content_, then_;
    bool has_snapshot_ = false;
  };
};

// Which of how many are wanted; nothing where this cannot be understood, or is none of them.
struct Part {
  bool full = false;
  std::uint64_t first = 1, last = ~std::uint64_t{0};
};
std::optional<Part> parse_part(const char* wanted, std::uint64_t there) {
  if (!wanted || *wanted == '\0') return Part{};
  Part part{true};
  std::string_view text = wanted;
  if (!text.starts_with("full")) return {};
  text.remove_prefix(4);
  if (text.empty()) return part;
  const auto number = [&](char before, std::uint64_t& into) {
    if (!text.starts_with(before)) return false;
    const auto [end, error] = std::from_chars(text.data() + 1, text.data() + text.size(), into);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return error == std::errc();
  };
  if (!number('@', part.first) || !number('-', part.last) || !text.empty()) return {};
  if (part.first == 0 || part.first > part.last || part.first > there) return {};
  return part;
}

TEST(MatrixParts, WhatIsNoneIsRefused) {
  EXPECT_FALSE(parse_part(nullptr, 10)->full);
  EXPECT_EQ(parse_part("full", 10)->first, 1u);
  EXPECT_EQ(parse_part("full@3-12", 10)->last, 12u);
  for (const char* wrong : {"ful", "full@", "full@3", "full@3-", "full@-3", "full@3-2", "full@0-3", "full@11-12", "full@1-2x", "fuller"})
    EXPECT_FALSE(parse_part(wrong, 10)) << wrong;
}

TEST_F(Matrix, EveryCombinationInTurns) {
  const char* wanted = std::getenv("TIDEMARK_MATRIX");
  std::vector<Combination> combinations = all_combinations();
  const std::optional<Part> part = parse_part(wanted, combinations.size());
  ASSERT_TRUE(part) << "TIDEMARK_MATRIX is full or full@N-M, of " << combinations.size() << ": " << wanted;
  const auto [full, first, last] = *part;
  if (!full) combinations = pairs_of(std::move(combinations));
  std::uint64_t seed = 0;
  for (const Combination& c : combinations) {
    if (++seed < first || seed > last) continue;
    SCOPED_TRACE(fmt::format("{}: {}{}{}", seed, name_of(c), c[below] ? " over a backing file" : "",
                             c[maker] ? " made by us" : " made by QEMU"));
    Life life(*this, c, seed);
    life.run();
    if (HasFailure()) return;
    if (full && seed % 100 == 0) std::printf("%lu of %zu\n", static_cast<unsigned long>(seed), combinations.size()), std::fflush(stdout);
  }
  std::printf("%zu combinations\n", combinations.size());
}

}  // namespace
}  // namespace tidemark::test
