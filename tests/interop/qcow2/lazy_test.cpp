// Lazy refcounts: images that are dirty while they are written to, and repaired when nobody closed them.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

class Lazy : public ImageTest {
 protected:
  Qcow2CreateOptions lazy(std::uint32_t refcount_bits = 16, std::uint64_t cluster_size = 64 * KiB) {
    Qcow2CreateOptions options;
    options.size = 8 * MiB;
    options.cluster_size = cluster_size;
    options.refcount_bits = refcount_bits;
    options.lazy_refcounts = true;
    return options;
  }
  bool is_dirty(const std::string& name) {
    return qemu_img("info -U " + name + " --output=json").find("\"dirty-flag\": true") != std::string::npos;
  }
  // As it is on the disk now: what a power cut would leave.
  void cut_off(const std::string& from, const std::string& to) {
    std::filesystem::copy_file(path(from), path(to), std::filesystem::copy_options::overwrite_existing);
  }
};

TEST_F(Lazy, IsCleanWhenClosed) {
  create("a.qcow2", lazy());
  Edge& image = open("a.qcow2");
  RandomOps ops(*reactor_, image, std::vector<std::byte>(8 * MiB), 3, 64 * KiB);
  ops.compressed = true;
  run(ops.run(60));
  run(image.flush());
  cut_off("a.qcow2", "b.qcow2");
  close_all();
  expect_clean("a.qcow2");
  EXPECT_FALSE(is_dirty("a.qcow2"));
  EXPECT_TRUE(is_dirty("b.qcow2"));
  expect_content("a.qcow2", ops.content());
}

// Neither QEMU nor we need the refcounts.
TEST_F(Lazy, IsRepairedAfterACrash) {
  for (const std::uint32_t bits : {1u, 16u, 64u})
    for (const std::uint64_t cluster_size : {512u, 4096u, 65536u}) {
      create("a.qcow2", lazy(bits, cluster_size));
      Edge& image = open("a.qcow2");
      RandomOps ops(*reactor_, image, std::vector<std::byte>(8 * MiB), bits, cluster_size);
      ops.compressed = bits != 1;
      run(ops.run(30));
      run(image.flush());
      cut_off("a.qcow2", "b.qcow2");
      cut_off("a.qcow2", "c.qcow2");
      close_all();
      ASSERT_TRUE(is_dirty("b.qcow2"));
      Edge& repaired = open("b.qcow2");
      EXPECT_EQ(read(repaired, 0, 8 * MiB), ops.content());
      write(repaired, 1024, std::vector<std::byte>(512, std::byte{1}));
      write(repaired, 1024, std::vector<std::byte>(ops.content().begin() + 1024, ops.content().begin() + 1536));
      close_all();
      EXPECT_FALSE(is_dirty("b.qcow2"));
      expect_clean("b.qcow2");
      expect_content("b.qcow2", ops.content());
      (void)run_shell("cd '" + directory_ + "' && qemu-img check -r all c.qcow2");
      expect_clean("c.qcow2");
      expect_content("c.qcow2", ops.content());
    }
}

// An image of QEMU's, with all that counts clusters, whose refcounts are wrong.
TEST_F(Lazy, AnImageThatQemuLeftIsRepaired) {
  Prng prng(5);
  const auto content = random_bytes(prng, 4 * MiB, true);
  write_file("source.raw", content);
  qemu_img("convert -c -f raw -O qcow2 -o lazy_refcounts=on source.raw a.qcow2");
  qemu_img("snapshot -c one a.qcow2");
  qemu_img("bitmap --add a.qcow2 b0");
  const Output aborted = run_shell("cd '" + directory_ + "' && qemu-io -c 'write -P 7 1M 1M' -c 'flush' -c 'abort' a.qcow2");
  EXPECT_NE(aborted.status, 0);
  ASSERT_TRUE(is_dirty("a.qcow2"));
  auto now = content;
  std::fill_n(now.begin() + MiB, MiB, std::byte{7});
  EXPECT_EQ(read(open_read_only("a.qcow2"), 0, now.size()), now);      // only read, it stays as it is
  close_all();
  EXPECT_TRUE(is_dirty("a.qcow2"));
  open("a.qcow2");
  close_all();
  EXPECT_FALSE(is_dirty("a.qcow2"));
  const Output checked = run_shell("cd '" + directory_ + "' && qemu-img check a.qcow2");
  EXPECT_EQ(checked.text.find("ERROR"), std::string::npos) << checked.text;
  expect_content("a.qcow2", now);
  qemu_img("snapshot -a one a.qcow2");
  expect_content("a.qcow2", content);
}

// An entry leads out of the file: where the data is nobody knows.
TEST_F(Lazy, WhatCannotBeRepairedIsOnlyRead) {
  create("a.qcow2", lazy());
  write(open("a.qcow2"), 0, std::vector<std::byte>(MiB, std::byte{1}));
  run(roots_.front()->flush());
  cut_off("a.qcow2", "b.qcow2");
  close_all();
  std::FILE* file = std::fopen(path("b.qcow2").c_str(), "r+b");
  std::byte entry[8];
  store_be(entry, std::uint64_t{1} << 40 | std::uint64_t{1} << 63);
  const auto read_at = [&](std::uint64_t at) {
    std::byte bytes[8];
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    EXPECT_EQ(std::fread(bytes, 1, 8, file), 8u);
    return load_be<std::uint64_t>(bytes) & 0x00fffffffffffe00;
  };
  std::fseek(file, static_cast<long>(read_at(read_at(40)) + 8), SEEK_SET);
  EXPECT_EQ(std::fwrite(entry, 1, 8, file), 8u);
  std::fclose(file);
  EXPECT_NE(open_failure("b.qcow2").find("it was not closed and cannot be repaired: ERROR"), std::string::npos);
  EXPECT_TRUE(is_dirty("b.qcow2"));
  EXPECT_EQ(read(open_read_only("b.qcow2"), 0, 64 * KiB), std::vector<std::byte>(64 * KiB, std::byte{1}));
}

TEST_F(Lazy, CanBeSwitchedOnAndOffWhenOpened) {
  Qcow2CreateOptions plain;
  plain.size = MiB;
  create("a.qcow2", plain);
  Qcow2OpenOptions on, off;
  on.lazy_refcounts = true;
  off.lazy_refcounts = false;
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  write(open("a.qcow2", on), 0, data);
  EXPECT_TRUE(is_dirty("a.qcow2"));
  close_all();
  EXPECT_FALSE(is_dirty("a.qcow2"));
  create("a.qcow2", lazy());
  write(open("a.qcow2", off), 0, data);
  EXPECT_FALSE(is_dirty("a.qcow2"));
  close_all();
  plain.version = 2;
  create("a.qcow2", plain);
  EXPECT_EQ(open_failure("a.qcow2", on), "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
}

}  // namespace
}  // namespace tidemark::test
