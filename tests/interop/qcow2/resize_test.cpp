// Resizing, seen by QEMU.
#include <array>
#include <fstream>

#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {
namespace {

class Resize : public ImageTest {
 protected:
  Qcow2CreateOptions sized(std::uint64_t size, std::uint64_t cluster_size = 64 * KiB) {
    Qcow2CreateOptions options;
    options.size = size;
    options.cluster_size = cluster_size;
    return options;
  }
};

TEST_F(Resize, GrowsFarEnoughToNeedALongerL1Table) {
  create("a.qcow2", sized(MiB, 512));
  Edge& image = open("a.qcow2");
  std::vector<std::byte> content(MiB, std::byte{3});
  write(image, 0, content);
  run(image.truncate(64 * MiB));
  EXPECT_EQ(image.size(), 64 * MiB);
  const std::vector<std::byte> end(1024, std::byte{4});
  write(image, 64 * MiB - 1024, end);
  close_all();
  expect_clean("a.qcow2");
  content.resize(64 * MiB);
  std::fill(content.end() - 1024, content.end(), std::byte{4});
  expect_content("a.qcow2", content);
}

// Longer than what one refcount block counts, with all the clusters that are free before it.
TEST_F(Resize, GrowsFarEnoughToNeedAVeryLongL1Table) {
  for (const std::uint64_t cluster_size : {512, 4096}) {
    create("a.qcow2", sized(MiB, cluster_size));
    Edge& image = open("a.qcow2");
    const std::uint64_t size = cluster_size == 512 ? 8 * GiB : 6 * TiB;
    run(image.truncate(size));
    const std::vector<std::byte> end(1024, std::byte{4});
    write(image, size - 1024, end);
    write(image, 0, end);
    close_all();
    expect_clean("a.qcow2");
    Edge& again = open_read_only("a.qcow2");
    std::vector<std::byte> found(1024);
    run(again.read(size - 1024, MutableBytes(found)));
    EXPECT_EQ(found, end);
    close_all();
    EXPECT_LT(std::filesystem::file_size(path("a.qcow2")), 40 * MiB);
  }
}

TEST_F(Resize, WhatWasCutOffDoesNotComeBack) {
  create("a.qcow2", sized(4 * MiB));
  Edge& image = open("a.qcow2");
  write(image, 0, std::vector<std::byte>(4 * MiB, std::byte{1}));
  run(image.truncate(MiB + 512));
  run(image.truncate(4 * MiB));
  close_all();
  expect_clean("a.qcow2");
  std::vector<std::byte> content(MiB + 512, std::byte{1});
  content.resize(4 * MiB);
  expect_content("a.qcow2", content);
}

// A crash came when the header had the new size and the tables did not.
TEST_F(Resize, WhatAShrinkThatWasCutShortLeftDoesNotComeBack) {
  create("a.qcow2", sized(4 * MiB));
  write(open("a.qcow2"), 0, std::vector<std::byte>(4 * MiB, std::byte{1}));
  close_all();
  std::array<std::byte, 8> smaller;
  store_be(smaller.data(), std::uint64_t{MiB + 512});
  std::fstream header(path("a.qcow2"), std::ios::in | std::ios::out | std::ios::binary);
  header.seekp(24).write(reinterpret_cast<const char*>(smaller.data()), smaller.size());
  header.close();
  ASSERT_TRUE(header);
  run(open("a.qcow2").truncate(4 * MiB));
  close_all();
  expect_clean("a.qcow2");
  std::vector<std::byte> content(MiB + 512, std::byte{1});
  content.resize(4 * MiB);
  expect_content("a.qcow2", content);
}

TEST_F(Resize, GrowsFromNothing) {
  create("ours.qcow2", sized(0));
  qemu_img("create -q -f qcow2 theirs.qcow2 0");
  for (const char* name : {"ours.qcow2", "theirs.qcow2"}) {
    expect_clean(name);
    Edge& image = open(name);
    run(image.truncate(4 * MiB));
    const std::vector<std::byte> end(1024, std::byte{4});
    write(image, 4 * MiB - 1024, end);
    close_all();
    expect_clean(name);
    std::vector<std::byte> content(4 * MiB);
    std::fill(content.end() - 1024, content.end(), std::byte{4});
    expect_content(name, content);
  }
}

TEST_F(Resize, ALongerBackingFileStaysHidden) {
  write_file("base.raw", std::vector<std::byte>(4 * MiB, std::byte{9}));
  for (const char* size : {"1M", "1536", "3M", "1M -o compat=0.10", "1536 -o compat=0.10"}) {
    qemu_img(std::string("create -q -f qcow2 -b base.raw -F raw a.qcow2 ") + size);
    Edge& image = open("a.qcow2");
    const std::uint64_t before = image.size();
    run(image.truncate(8 * MiB));
    close_all();
    expect_clean("a.qcow2");
    std::vector<std::byte> content(before, std::byte{9});
    content.resize(8 * MiB);
    expect_content("a.qcow2", content);
  }
}

// The new end lies in a subcluster of zeroes, behind which others of the cluster hold data.
TEST_F(Resize, SubclustersBehindTheEndDoNotComeBack) {
  Qcow2CreateOptions options = sized(MiB, 64 * KiB);
  options.extended_l2 = true;
  create("a.qcow2", options);
  Edge& image = open("a.qcow2");
  write(image, 0, std::vector<std::byte>(64 * KiB, std::byte{1}));
  run(image.write_zeroes({2048, 2048}));
  run(image.truncate(2560));
  run(image.truncate(MiB));
  EXPECT_TRUE(is_zero(read(image, 2560, MiB - 2560)));
  close_all();
  expect_clean("a.qcow2");
}

TEST_F(Resize, RefusesWhatCannotBe) {
  create("a.qcow2", sized(MiB, 512));
  Edge& image = open("a.qcow2");
  EXPECT_EQ(failure(image.truncate(MiB + 1)), "The new size must be a multiple of 512");
  EXPECT_NE(failure(image.truncate(TiB)).find("would exceed 32 MiB"), std::string::npos);
  EXPECT_EQ(image.size(), MiB);
  close_all();
  expect_clean("a.qcow2");
}

}  // namespace
}  // namespace tidemark::test
