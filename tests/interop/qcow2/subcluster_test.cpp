// Extended L2 entries: what is copied, and what QEMU's map shows.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

class Subclusters : public ImageTest {
 protected:
  // Every piece: where, how long, whether it is data, zero, present.
  std::string map_of(const std::string& name) { return qemu_img("map -U --output=json " + name); }
};

TEST_F(Subclusters, OnlyWhatIsNeededIsCopied) {
  Prng prng(1);
  const auto base = random_bytes(prng, 1 * MiB);
  write_file("base.raw", base);
  qemu_img("create -q -f qcow2 -b base.raw -F raw -o extended_l2=on top.qcow2");
  Edge& image = open("top.qcow2");
  BlockNode& below = *image.node().backing();
  const std::vector<std::byte> sector(512, std::byte{6}), subcluster(2048, std::byte{7});
  write(image, 128 * KiB + 4096, subcluster);
  EXPECT_EQ(below.stats().read.bytes, 0u);
  write(image, 128 * KiB + 8192 + 512, sector);
  EXPECT_EQ(below.stats().read.bytes, 2048u - 512u);
  write(image, 128 * KiB + 8192 + 1024, sector);       // in place
  EXPECT_EQ(below.stats().read.bytes, 2048u - 512u);
  const auto mapped = [&](std::uint64_t at) { return run(image.map({at, image.size() - at})); };
  EXPECT_EQ(mapped(128 * KiB).mapping, Mapping::below);
  EXPECT_EQ(mapped(128 * KiB + 4096).mapping, Mapping::data);
  EXPECT_EQ(mapped(128 * KiB + 4096).range.length, 2048u);
  run(image.write_zeroes({128 * KiB + 4096, 2048}));
  EXPECT_EQ(mapped(128 * KiB + 4096).mapping, Mapping::zero_allocated);
  close_all();
  expect_clean("top.qcow2");
  auto content = base;
  std::fill_n(content.begin() + 128 * KiB + 4096, 2048, std::byte{0});
  std::fill_n(content.begin() + 128 * KiB + 8192 + 512, 1024, std::byte{6});
  expect_content("top.qcow2", content);
  EXPECT_NE(map_of("top.qcow2").find("\"start\": 139264, \"length\": 2048"), std::string::npos) << map_of("top.qcow2");
}

// A cluster that a snapshot keeps is copied from its first stored subcluster to its last, not more.
TEST_F(Subclusters, ASharedClusterIsCopiedAsFarAsItIsStored) {
  write_file("base.raw", std::vector<std::byte>(1 * MiB, std::byte{1}));
  qemu_img("create -q -f qcow2 -b base.raw -F raw -o extended_l2=on top.qcow2");
  write(open("top.qcow2"), 8192, std::vector<std::byte>(4096, std::byte{2}));
  close_all();
  qemu_img("snapshot -c one top.qcow2");
  Edge& image = open("top.qcow2");
  write(image, 8192 + 512, std::vector<std::byte>(512, std::byte{3}));
  EXPECT_EQ(image.node().backing()->stats().read.bytes, 0u);
  close_all();
  expect_clean("top.qcow2");
  std::vector<std::byte> content(1 * MiB, std::byte{1});
  std::fill_n(content.begin() + 8192, 4096, std::byte{2});
  const auto before = content;
  std::fill_n(content.begin() + 8192 + 512, 512, std::byte{3});
  expect_content("top.qcow2", content);
  qemu_img("snapshot -a one top.qcow2");
  expect_content("top.qcow2", before);
}

// QEMU writes, we write, QEMU writes: each on what the other left.
TEST_F(Subclusters, TakeTurnsWithQemu) {
  write_file("base.raw", std::vector<std::byte>(4 * MiB, std::byte{9}));
  qemu_img("create -q -f qcow2 -b base.raw -F raw -o extended_l2=on,cluster_size=32k a.qcow2");
  std::vector<std::byte> content(4 * MiB, std::byte{9});
  Prng prng(17);
  for (std::uint64_t round = 0; round < 4; ++round) {
    std::string commands;
    for (int i = 0; i < 12; ++i) {
      const std::uint64_t at = prng.below(4 * MiB / 512 - 64) * 512, length = (1 + prng.below(64)) * 512;
      const auto value = static_cast<unsigned>(1 + prng.below(200));
      const bool zero = prng.chance(1, 3);
      commands += zero ? " -c 'write -z " : " -c 'write -P " + std::to_string(value) + " ";
      commands += std::to_string(at) + " " + std::to_string(length) + "'";
      std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(at), length, static_cast<std::byte>(zero ? 0 : value));
    }
    const Output wrote = run_shell("cd '" + directory_ + "' && qemu-io -f qcow2" + commands + " a.qcow2");
    ASSERT_EQ(wrote.status, 0) << wrote.text;
    Edge& image = open("a.qcow2");
    EXPECT_EQ(read(image, 0, content.size()), content);
    RandomOps ops(*reactor_, image, content, round, 32 * KiB);
    ops.compressed = true;
    run(ops.run(20));
    content = ops.content();
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", content);
  }
}

// Both states at once, or a place that is none.
TEST_F(Subclusters, AnEntryThatCannotBeIsRefused) {
  for (const std::uint64_t bitmap : {std::uint64_t{1} << 32 | 1, std::uint64_t{2}}) {
    qemu_img("create -q -f qcow2 -o extended_l2=on a.qcow2 4M");
    write(open("a.qcow2"), 0, std::vector<std::byte>(2048, std::byte{1}));
    close_all();
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "r+b");
    std::byte number[8];
    std::fseek(file, 40, SEEK_SET);
    ASSERT_EQ(std::fread(number, 1, 8, file), 8u);
    std::fseek(file, static_cast<long>(load_be<std::uint64_t>(number)), SEEK_SET);
    ASSERT_EQ(std::fread(number, 1, 8, file), 8u);
    const std::uint64_t l2 = load_be<std::uint64_t>(number) & 0x00fffffffffffe00;
    std::fseek(file, static_cast<long>(bitmap == 2 ? l2 : l2 + 8), SEEK_SET);
    store_be(number, bitmap == 2 ? std::uint64_t{0} : bitmap);       // no place, but subclusters
    std::fwrite(number, 1, 8, file);
    std::fclose(file);
    Edge& image = open("a.qcow2");
    AlignedBuffer buffer(512);
    EXPECT_NE(failure(image.read(0, buffer.bytes())).find("is corrupt: the L2 entry"), std::string::npos);
    close_all();
  }
}

}  // namespace
}  // namespace tidemark::test
