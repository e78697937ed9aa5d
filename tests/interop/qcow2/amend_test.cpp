// What changes in an image that exists, seen by QEMU.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t disk_size = 4 * MiB;

class Amend : public ImageTest {
 protected:
  static Qcow2Driver& driver(Edge& image) { return dynamic_cast<Qcow2Driver&>(image.node().driver()); }
  std::vector<std::byte> fill(const std::string& name, std::uint64_t seed, bool compressed = true) {
    Edge& image = open(name);
    RandomOps ops(*reactor_, image, read(image, 0, image.size()), seed, image.node().limits().discard_align);
    ops.compressed = compressed;
    run(ops.run(20));
    close_all();
    return ops.content();
  }
  std::string info(const std::string& name) { return qemu_img("info -U " + name); }
  void expect_info(const std::string& name, const std::string& text) {
    EXPECT_NE(info(name).find(text), std::string::npos) << text << "\n" << info(name);
  }
};

TEST_F(Amend, RefcountsOfAnotherWidth) {
  constexpr struct {
    std::uint32_t from, to;
    std::uint64_t cluster_size;
  } changes[] = {{16, 64, 64 * KiB}, {64, 1, 512}, {1, 32, 512}, {16, 8, 4 * KiB}, {2, 16, 64 * KiB}};
  for (const auto& change : changes) {
    SCOPED_TRACE(change.to);
    Qcow2CreateOptions options;
    options.size = disk_size;
    options.cluster_size = change.cluster_size;
    options.refcount_bits = change.from;
    create("a.qcow2", options);
    const bool compressed = change.from >= 8 && change.to >= 8;
    (void)fill("a.qcow2", 1, compressed);
    Edge& image = open("a.qcow2");
    Qcow2AmendOptions amend;
    amend.refcount_bits = change.to;
    run(driver(image).amend(amend));
    // It goes on as if nothing had been.
    RandomOps ops(*reactor_, image, read(image, 0, disk_size), 2, change.cluster_size);
    run(ops.run(20));
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
    expect_info("a.qcow2", "refcount bits: " + std::to_string(change.to));
  }
}

TEST_F(Amend, RefcountsThatWouldNotFit) {
  qemu_img("create -q -f qcow2 a.qcow2 4M");
  const auto content = fill("a.qcow2", 3);
  qemu_img("snapshot -c one a.qcow2");
  Edge& image = open("a.qcow2");
  Qcow2AmendOptions amend;
  amend.refcount_bits = 1;
  EXPECT_NE(failure(driver(image).amend(amend)).find("Cannot decrease refcount entry width to 1 bits"), std::string::npos);
  close_all();
  expect_clean("a.qcow2");
  expect_content("a.qcow2", content);
}

TEST_F(Amend, VersionsBackAndForth) {
  write_file("base.raw", std::vector<std::byte>(disk_size, std::byte{3}));
  for (const char* backing : {"", "-b base.raw -F raw "}) {
    qemu_img(std::string("create -q -f qcow2 -o compat=0.10 ") + backing + "a.qcow2 4M");
    Edge& image = open("a.qcow2");
    Qcow2AmendOptions up, down;
    up.version = 3;
    down.version = 2;
    run(driver(image).amend(up));
    RandomOps ops(*reactor_, image, read(image, 0, disk_size), 4, 64 * KiB);
    run(ops.run(30));
    run(image.write_zeroes({1 * MiB, 1 * MiB}, WriteFlags::may_unmap));
    std::fill_n(ops.content().begin() + 1 * MiB, 1 * MiB, std::byte{0});
    run(driver(image).amend(down));
    run(ops.compare({0, disk_size}));
    close_all();
    expect_info("a.qcow2", "compat: 0.10");
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
    const auto content = ops.content();
    run(driver(open("a.qcow2")).amend(up));
    close_all();
    expect_info("a.qcow2", "compat: 1.1");
    expect_clean("a.qcow2");
    expect_content("a.qcow2", content);
  }
}

TEST_F(Amend, NamesAndFeatures) {
  write_file("base.raw", std::vector<std::byte>(disk_size, std::byte{3}));
  write_file("other.raw", std::vector<std::byte>(disk_size, std::byte{4}));
  for (const char* cluster_size : {"64k", "512"}) {
    qemu_img(std::string("create -q -f qcow2 -b base.raw -F raw -o cluster_size=") + cluster_size + " a.qcow2");
    Qcow2AmendOptions amend;
    amend.lazy_refcounts = true;
    amend.backing_file = "other.raw";
    amend.backing_format = "raw";
    amend.size = 8 * MiB;
    run(driver(open("a.qcow2")).amend(amend));
    close_all();
    expect_info("a.qcow2", "lazy refcounts: true");
    expect_info("a.qcow2", "backing file: other.raw");
    expect_clean("a.qcow2");
    Edge& image = open("a.qcow2");
    EXPECT_EQ(image.size(), 8 * MiB);
    EXPECT_EQ(read(image, 0, 1)[0], std::byte{4});
    EXPECT_EQ(read(image, 6 * MiB, 1)[0], std::byte{0});
    Qcow2AmendOptions none;
    none.backing_file = "";
    none.lazy_refcounts = false;
    run(driver(image).amend(none));
    close_all();
    EXPECT_EQ(info("a.qcow2").find("backing"), std::string::npos);
    expect_clean("a.qcow2");
  }
}

TEST_F(Amend, RefusesWhatCannotBe) {
  const auto refusal = [this](const std::string& create, auto change) {
    qemu_img("create -q -f qcow2 " + create + " a.qcow2 4M");
    Qcow2AmendOptions amend;
    change(amend);
    const std::string why = failure(driver(open("a.qcow2")).amend(amend));
    close_all();
    expect_clean("a.qcow2");
    return why;
  };
  EXPECT_EQ(refusal("", [](auto& o) { o.refcount_bits = 3; }), "Refcount width must be a power of two and may not exceed 64 bits");
  EXPECT_EQ(refusal("", [](auto& o) { o.version = 4; }), "qcow2: version must be 2 or 3");
  EXPECT_EQ(refusal("-o refcount_bits=8", [](auto& o) { o.version = 2; }), "compat=0.10 requires refcount_bits=16");
  EXPECT_EQ(refusal("-o extended_l2=on", [](auto& o) { o.version = 2; }), "Cannot downgrade an image with incompatible features set");
  EXPECT_EQ(refusal("-o compat=0.10", [](auto& o) { o.lazy_refcounts = true; }),
            "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or greater)");
  EXPECT_EQ(refusal("", [](auto& o) { o.data_file = "x"; }), "data-file can only be set for images that use an external data file");
  EXPECT_EQ(refusal("", [](auto& o) { o.data_file_raw = true; }), "data-file-raw may not be set on existing images");
  EXPECT_EQ(refusal("", [](auto& o) { o.backing_file = std::string(1024, 'x'); }), "Backing file name too long");
}

// Longer and shorter, in every layout, with space reserved.
TEST_F(Amend, SizesInEveryLayout) {
  using enum Qcow2Preallocation;
  for (const bool extended : {false, true})
    for (const bool outside : {false, true})
      for (const Qcow2Preallocation how : {off, metadata, falloc, full}) {
        Qcow2CreateOptions options;
        options.size = 3 * MiB + 512;
        options.extended_l2 = extended;
        if (outside) options.data_file = "a.data";
        create("a.qcow2", options);
        auto content = fill("a.qcow2", 7, !outside);
        Edge& image = open("a.qcow2");
        run(driver(image).resize(9 * MiB, how));
        content.resize(9 * MiB);
        EXPECT_EQ(read(image, 0, content.size()), content);
        if (how != off) {
          EXPECT_EQ(run(image.map({5 * MiB, MiB})).mapping, Mapping::data);
        }
        write(image, 8 * MiB, std::vector<std::byte>(1024, std::byte{7}));
        run(image.truncate(2 * MiB));
        run(image.truncate(4 * MiB));
        content.resize(2 * MiB);
        content.resize(4 * MiB);
        close_all();
        expect_clean("a.qcow2");
        expect_content("a.qcow2", content);
      }
  create("a.qcow2", {});
  EXPECT_EQ(failure(driver(open("a.qcow2")).resize(0, off)), "no error");
}

// Entries behind the end say that they read as zeroes, which version 2 does not know.
TEST_F(Amend, ToVersion2WhatWasLonger) {
  Qcow2CreateOptions options;
  options.size = disk_size;
  create("a.qcow2", options);
  Edge& image = open("a.qcow2");
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  write(image, 0, data);
  write(image, disk_size - data.size(), data);
  run(image.truncate(disk_size / 2));
  Qcow2AmendOptions old;
  old.version = 2;
  run(driver(image).amend(old));
  close_all();
  expect_clean("a.qcow2");
  Edge& longer = open("a.qcow2");
  run(longer.truncate(disk_size));
  EXPECT_TRUE(is_zero(read(longer, data.size(), disk_size - data.size())));
  write(longer, disk_size - data.size(), data);
  close_all();
  expect_clean("a.qcow2");
}

}  // namespace
}  // namespace tidemark::test
