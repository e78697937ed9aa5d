// Images that QEMU made: read, then written to, then looked at by QEMU again.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

// Data, zeroes and holes.
std::vector<std::byte> patchwork(std::uint64_t seed, std::size_t size) {
  Prng prng(seed);
  std::vector<std::byte> bytes(size);
  for (std::size_t at = 0; at < size;) {
    const std::size_t length = std::min<std::size_t>(size - at, 512 * (1 + prng.below(400)));
    if (prng.chance(1, 2)) {
      const auto data = random_bytes(prng, length, prng.chance(3, 4));
      std::copy(data.begin(), data.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at));
    }
    at += length;
  }
  return bytes;
}

class QemuImage : public ImageTest, public ::testing::WithParamInterface<const char*> {
 protected:
  std::vector<std::byte> content = patchwork(7, 5 * MiB + 512);
};

TEST_P(QemuImage, ReadsAndIsWrittenTo) {
  write_file("source.raw", content);
  qemu_img(std::string("convert -f raw -O qcow2 ") + GetParam() + " source.raw a.qcow2");
  EXPECT_EQ(read(open_read_only("a.qcow2"), 0, content.size()), content);
  close_all();

  Edge& image = open("a.qcow2");
  const std::uint64_t cluster_size = image.node().limits().discard_align;
  RandomOps ops(*reactor_, image, content, 11, cluster_size);
  ops.compressed = true;
  run(ops.run(80));
  run(ops.compare({0, image.size()}));
  close_all();
  expect_clean("a.qcow2");
  expect_content("a.qcow2", ops.content());
}

INSTANTIATE_TEST_SUITE_P(
    Options, QemuImage,
    ::testing::Values("", "-c", "-o compat=0.10", "-c -o compat=0.10", "-o cluster_size=512",
                      "-c -o cluster_size=2M", "-c -o cluster_size=4k", "-c -o compression_type=zstd",
                      "-c -o compression_type=zstd,cluster_size=512", "-o refcount_bits=1",
                      "-c -o refcount_bits=64", "-c -o refcount_bits=1", "-o preallocation=metadata",
                      "-o preallocation=falloc", "-o lazy_refcounts=on", "-o extended_l2=on", "-c -o extended_l2=on",
                      "-o extended_l2=on,cluster_size=16k", "-c -o extended_l2=on,cluster_size=2M,refcount_bits=1",
                      "-o extended_l2=on,preallocation=metadata"));

class QemuImages : public ImageTest {};

TEST_F(QemuImages, ReadsAcrossAChain) {
  const auto base = patchwork(1, 4 * MiB);
  write_file("base.raw", base);
  qemu_img("create -q -f qcow2 -b base.raw -F raw mid.qcow2 6M");
  qemu_img("create -q -f qcow2 -o cluster_size=4k -b mid.qcow2 -F qcow2 top.qcow2");
  std::vector<std::byte> content = base;
  content.resize(6 * MiB);
  for (int round = 0; round < 3; ++round) {
    Edge& image = open("top.qcow2");
    EXPECT_EQ(read(image, 0, content.size()), content);
    RandomOps ops(*reactor_, image, content, 20 + round, 4096);
    run(ops.run(60));
    content = ops.content();
    close_all();
    expect_clean("top.qcow2");
    expect_content("top.qcow2", content);
  }
  // What is below was only read.
  Edge& mid = open_read_only("mid.qcow2");
  EXPECT_TRUE(std::equal(base.begin(), base.end(), read(mid, 0, base.size()).begin()));
}

// Layers with their tables in memory are passed by: what is read the second time is what was read the first.
TEST_F(QemuImages, ReadsAcrossManyLayers) {
  Prng prng(4);
  write_file("layer-0", patchwork(4, 2 * MiB));
  for (int layer = 1; layer < 12; ++layer) {
    const std::string name = "layer-" + std::to_string(layer), below = "layer-" + std::to_string(layer - 1);
    const std::string cluster_size = layer % 3 == 0 ? "4k" : "64k";
    const std::uint64_t size = (2 + prng.below(4)) * MiB;                // some are shorter than what is below
    qemu_img("create -q -f qcow2 -o cluster_size=" + cluster_size + " -b " + below + (layer == 1 ? " -F raw " : " -F qcow2 ") + name +
             " " + std::to_string(size));
    Edge& image = open(name);
    for (int i = 0; i < 6; ++i)
      write(image, prng.below(size / 4096 - 16) * 4096, random_bytes(prng, 4096 * (1 + prng.below(16)), true));
    run(image.write_zeroes({prng.below(size / 4096 - 16) * 4096, 8 * KiB}));
    close_all();
  }
  Edge& image = open_read_only("layer-11");
  const auto content = read(image, 0, image.size());
  for (int i = 0; i < 500; ++i) {
    const std::uint64_t at = prng.below(content.size() / 512) * 512;
    const std::uint64_t length = std::min<std::uint64_t>(512 * (1 + prng.below(64)), content.size() - at);
    const auto piece = read(image, at, length);
    ASSERT_TRUE(std::equal(piece.begin(), piece.end(), content.begin() + static_cast<std::ptrdiff_t>(at))) << at;
  }
  close_all();
  expect_content("layer-11", content);
}

TEST_F(QemuImages, CopiesOnWriteOnlyWhatIsNeeded) {
  write_file("base.raw", patchwork(2, 1 * MiB));
  qemu_img("create -q -f qcow2 -b base.raw -F raw top.qcow2");
  Edge& image = open("top.qcow2");
  BlockNode& base = *image.node().backing();
  const std::vector<std::byte> cluster(64 * KiB, std::byte{5}), sector(512, std::byte{6});
  write(image, 0, cluster);
  EXPECT_EQ(base.stats().read.bytes, 0u);
  write(image, 128 * KiB + 1024, sector);
  EXPECT_EQ(base.stats().read.bytes, 64 * KiB - 512);
  write(image, 128 * KiB + 8192, sector);
  EXPECT_EQ(base.stats().read.bytes, 64 * KiB - 512);
}

TEST_F(QemuImages, KeepsSnapshotsAsTheyWere) {
  const auto content = patchwork(3, 3 * MiB);
  write_file("source.raw", content);
  for (const char* options : {"", "-c"}) {
    qemu_img(std::string("convert -f raw -O qcow2 ") + options + " source.raw a.qcow2");
    qemu_img("snapshot -c before a.qcow2");
    Edge& image = open("a.qcow2");
    RandomOps ops(*reactor_, image, content, 5, 64 * KiB);
    run(ops.run(80));
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
    qemu_img("snapshot -a before a.qcow2");
    expect_clean("a.qcow2");
    expect_content("a.qcow2", content);
  }
}

TEST_F(QemuImages, MapsAsQemuDoes) {
  qemu_img("create -q -f qcow2 a.qcow2 1G");
  Edge& image = open("a.qcow2");
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  write(image, 512 * MiB, data);
  run(image.write_zeroes({MiB, 192 * KiB}));
  const auto mapped = [&](std::uint64_t at) { return run(image.map({at, image.size() - at})); };
  EXPECT_EQ(mapped(0).mapping, Mapping::below);
  EXPECT_EQ(mapped(0).range, (Range{0, MiB}));
  EXPECT_EQ(mapped(MiB).mapping, Mapping::zero);
  EXPECT_EQ(mapped(MiB).range, (Range{MiB, 192 * KiB}));
  EXPECT_EQ(mapped(512 * MiB).mapping, Mapping::data);
  EXPECT_TRUE(mapped(512 * MiB).host_offset.has_value());
  EXPECT_EQ(mapped(512 * MiB + 64 * KiB).range.end(), 544 * MiB);
  run(image.write_zeroes({512 * MiB, 64 * KiB}));
  EXPECT_EQ(mapped(512 * MiB).mapping, Mapping::zero_allocated);
  run(image.discard({512 * MiB, 64 * KiB}));
  EXPECT_EQ(mapped(512 * MiB).mapping, Mapping::zero);
  close_all();
  expect_clean("a.qcow2");
}

TEST_F(QemuImages, SaysWhatTheImageIs) {
  write_file("base.raw", std::vector<std::byte>(MiB));
  qemu_img("create -q -f qcow2 -b base.raw -F raw -o compression_type=zstd,lazy_refcounts=on,cluster_size=8k "
           "a.qcow2 2M");
  Edge& image = open_read_only("a.qcow2");
  const ImageInfo info = run(image.node().driver().info());
  EXPECT_EQ(info.format, "qcow2");
  EXPECT_EQ(info.filename, path("a.qcow2"));
  EXPECT_EQ(info.virtual_size, 2 * MiB);
  EXPECT_EQ(info.cluster_size, 8 * KiB);
  EXPECT_EQ(info.backing_filename, "base.raw");
  EXPECT_EQ(info.backing_format, "raw");
  ASSERT_TRUE(info.qcow2.has_value());
  EXPECT_EQ(info.qcow2->compat, "1.1");
  EXPECT_EQ(info.qcow2->compression_type, "zstd");
  EXPECT_EQ(info.qcow2->refcount_bits, 16u);
  EXPECT_TRUE(info.qcow2->lazy_refcounts);
}

// Bitmaps that nobody maintains while we write are not taken for good afterwards.
TEST_F(QemuImages, SwitchesBitmapsOffWhenWriting) {
  qemu_img("create -q -f qcow2 a.qcow2 1M");
  qemu_img("bitmap --add a.qcow2 b0");
  EXPECT_NE(qemu_img("info a.qcow2").find("b0"), std::string::npos);
  open_read_only("a.qcow2");
  close_all();
  EXPECT_NE(qemu_img("info a.qcow2").find("b0"), std::string::npos);
  open("a.qcow2");
  close_all();
  EXPECT_EQ(qemu_img("info a.qcow2").find("name: b0"), std::string::npos);
}

}  // namespace
}  // namespace tidemark::test
