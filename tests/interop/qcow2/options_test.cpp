// Runtime options: each does what it says.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

using qcow2::DiscardCause;

class Options : public ImageTest {
 protected:
  static Qcow2Driver& driver(Edge& image) { return dynamic_cast<Qcow2Driver&>(image.node().driver()); }
  std::uint64_t allocated(Edge& image) { return *run(image.node().driver().info()).actual_size; }
  std::uint64_t peek(std::uint64_t at) {
    std::byte big[8] = {};
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "rb");
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    EXPECT_EQ(std::fread(big, 1, 8, file), 8u);
    std::fclose(file);
    return load_be<std::uint64_t>(big);
  }
  void poke(std::uint64_t at, std::uint64_t value) {
    std::byte big[8];
    store_be(big, value);
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "r+b");
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    EXPECT_EQ(std::fwrite(big, 1, 8, file), 8u);
    std::fclose(file);
  }
  const std::vector<std::byte> data = std::vector<std::byte>(1 * MiB, std::byte{5});
};

TEST_F(Options, DiscardNoUnrefKeepsThePlace) {
  for (const bool pass : {false, true}) {
    qemu_img("create -q -f qcow2 a.qcow2 4M");
    Qcow2OpenOptions options;
    options.discard_no_unref = true;
    options.pass_discards = pass ? qcow2::causes(DiscardCause::request) : qcow2::causes();
    Edge& image = open("a.qcow2", options);
    write(image, 0, data);
    run(image.flush());
    const Extent before = run(image.map({0, MiB}));
    const std::uint64_t full = allocated(image);
    run(image.discard({0, MiB}));
    run(image.flush());
    const Extent after = run(image.map({0, MiB}));
    EXPECT_EQ(after.mapping, Mapping::zero_allocated);
    EXPECT_EQ(after.host_offset, before.host_offset);
    EXPECT_EQ(allocated(image) <= full - MiB, pass);
    write(image, 0, data);
    EXPECT_EQ(run(image.map({0, MiB})).host_offset, before.host_offset);
    close_all();
    expect_clean("a.qcow2");
  }
  qemu_img("create -q -f qcow2 -o compat=0.10 a.qcow2 4M");
  Qcow2OpenOptions options;
  options.discard_no_unref = true;
  EXPECT_EQ(open_failure("a.qcow2", options), "discard-no-unref is only supported since qcow2 version 3");
}

TEST_F(Options, PassDiscardsByTheirCause) {
  for (const bool pass : {false, true}) {
    qemu_img("create -q -f qcow2 a.qcow2 4M");
    Qcow2OpenOptions options;
    options.pass_discards = pass ? qcow2::causes(DiscardCause::request, DiscardCause::snapshot) : qcow2::causes();
    Edge& image = open("a.qcow2", options);
    write(image, 0, data);
    run(image.flush());
    const std::uint64_t full = allocated(image);
    run(image.discard({0, MiB}));
    run(image.flush());
    EXPECT_EQ(allocated(image) <= full - MiB, pass);
    write(image, 0, data);
    Qcow2Snapshot one;
    one.name = "one";
    run(driver(image).create_snapshot(one));
    run(image.discard({0, MiB}));
    run(image.flush());
    const std::uint64_t with_snapshot = allocated(image);
    run(driver(image).delete_snapshot("one"));
    EXPECT_EQ(allocated(image) + MiB / 2 <= with_snapshot, pass);
    close_all();
    expect_clean("a.qcow2");
  }
}

// An L2 entry that points at an L2 table of a snapshot.
TEST_F(Options, OverlapChecksGuardWhatTheySay) {
  qemu_img("create -q -f qcow2 a.qcow2 4M");
  Edge& image = open("a.qcow2");
  write(image, 0, data);
  Qcow2Snapshot one;
  one.name = "one";
  run(driver(image).create_snapshot(one));
  close_all();
  const std::uint64_t mask = 0x00fffffffffffe00, copied = std::uint64_t{1} << 63;
  const std::uint64_t l2 = peek(peek(40)) & mask, snapshot_l1 = peek(peek(64)), snapshot_l2 = peek(snapshot_l1) & mask;
  const auto outcome = [&](std::uint64_t target, qcow2::OverlapChecks checks) {
    poke(l2, target | copied);
    poke(72, 0);
    Qcow2OpenOptions options;
    options.overlap_checks = checks;
    Edge& broken = open("a.qcow2", options);
    const std::uint64_t kept = peek(target);
    AlignedBuffer sector(512);
    Buffers(sector.bytes()).fill_zero();
    store_be(sector.data(), kept);
    const std::string why = failure(broken.write(0, sector.bytes()));
    close_all();
    return why.find("is corrupt") != std::string::npos;
  };
  EXPECT_FALSE(outcome(snapshot_l2, qcow2::cached_overlap_checks));
  EXPECT_TRUE(outcome(snapshot_l2, qcow2::all_overlap_checks));
  EXPECT_TRUE(outcome(snapshot_l1, qcow2::cached_overlap_checks));
  EXPECT_FALSE(outcome(snapshot_l1, qcow2::constant_overlap_checks));
  EXPECT_TRUE(outcome(l2, qcow2::cached_overlap_checks));
  EXPECT_TRUE(outcome(peek(48), qcow2::constant_overlap_checks));
}

TEST_F(Options, SmallCachesAndSlicesOfEverySize) {
  for (const std::uint64_t slice : {512u, 4096u, 65536u}) {
    qemu_img("create -q -f qcow2 a.qcow2 64M");
    Qcow2OpenOptions options;
    options.caches.total = 128 * KiB;
    options.l2_slice_bytes = slice;
    options.cache_clean_interval = std::chrono::nanoseconds(1);
    Edge& image = open("a.qcow2", options);
    RandomOps ops(*reactor_, image, std::vector<std::byte>(64 * MiB), slice, 64 * KiB);
    ops.compressed = true;
    run(ops.run(40));
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
  }
  Qcow2OpenOptions options;
  for (const std::uint64_t slice : {256u, 1000u, 131072u}) {
    options.l2_slice_bytes = slice;
    EXPECT_EQ(open_failure("a.qcow2", options),
              "L2 cache entry size must be a power of two between 512 and the cluster size (65536)");
  }
}

TEST_F(Options, TablesThatNobodyUsesLeaveMemory) {
  qemu_img("create -q -f qcow2 a.qcow2 4G");
  Qcow2OpenOptions options;
  options.cache_clean_interval = std::chrono::milliseconds(50);
  Edge& image = open("a.qcow2", options);
  auto& driver = dynamic_cast<Qcow2Driver&>(image.node().driver());
  AlignedBuffer sector(512);
  Buffers(sector.bytes()).fill_zero();
  for (std::uint64_t at = 0; at < 4 * GiB; at += 512 * MiB) run(image.write(at, sector.bytes()));
  run(image.flush());
  const std::size_t used = driver.cached_tables();
  EXPECT_GE(used, 8u);
  driver.clean_caches();
  EXPECT_EQ(driver.cached_tables(), used) << "they have just been used";
  for (int i = 0; i < 2; ++i) {                 // what was used since the one before stays once
    run(reactor_->sleep(std::chrono::milliseconds(60)));
    driver.clean_caches();
  }
  EXPECT_EQ(driver.cached_tables(), 0u);
  close_all();
  expect_clean("a.qcow2");
}

}  // namespace
}  // namespace tidemark::test
