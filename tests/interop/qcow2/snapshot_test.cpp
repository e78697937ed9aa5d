// Internal snapshots, made by us and by QEMU, seen by the other.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

struct SnapshotShape {
  const char* name;
  std::uint64_t cluster_size;
  std::uint32_t version, refcount_bits;
  bool extended_l2, lazy;
};
constexpr SnapshotShape shapes[] = {
    {"usual", 64 * KiB, 3, 16, false, false},   {"small clusters", 512, 3, 64, false, false},
    {"large clusters", 2 * MiB, 3, 8, false, false}, {"version 2", 4 * KiB, 2, 16, false, false},
    {"few counts", 8 * KiB, 3, 4, false, false}, {"subclusters", 16 * KiB, 3, 16, true, false},
    {"lazy", 64 * KiB, 3, 16, false, true},
};
constexpr std::uint64_t disk_size = 6 * MiB;

class Snapshots : public ImageTest {
 protected:
  static Qcow2Driver& driver(Edge& image) { return dynamic_cast<Qcow2Driver&>(image.node().driver()); }
  static Qcow2Snapshot named(std::string name) {
    Qcow2Snapshot snapshot;
    snapshot.name = std::move(name);
    snapshot.date_seconds = 1'700'000'000;
    return snapshot;
  }
  void change(Edge& image, std::vector<std::byte>& content, std::uint64_t seed, const SnapshotShape& shape) {
    RandomOps ops(*reactor_, image, content, seed, shape.cluster_size);
    ops.compressed = shape.refcount_bits >= 8;       // compressed clusters share a place, and count there
    run(ops.run(12));
    run(ops.compare({0, disk_size}));
    content = ops.content();
  }
  void create_shape(const SnapshotShape& shape) {
    Qcow2CreateOptions options;
    options.size = disk_size;
    options.cluster_size = shape.cluster_size;
    options.version = shape.version;
    options.refcount_bits = shape.refcount_bits;
    options.extended_l2 = shape.extended_l2;
    options.lazy_refcounts = shape.lazy;
    create("a.qcow2", options);
  }
  void expect_snapshot(const std::string& name, const std::vector<std::byte>& content) {
    qemu_img("convert -q -f qcow2 -l snapshot.name=" + name + " -O raw a.qcow2 s.raw");
    write_file("s.expected", content);
    const Output same = run_shell("cd '" + directory_ + "' && cmp s.raw s.expected");
    EXPECT_EQ(same.status, 0) << name << ": " << same.text;
    Qcow2OpenOptions options;
    options.read_only = true;
    options.snapshot = name;
    EXPECT_EQ(read(open("a.qcow2", options), 0, disk_size), content) << name;
    close_all();
  }
};

TEST_F(Snapshots, OursAreQemus) {
  for (const SnapshotShape& shape : shapes) {
    SCOPED_TRACE(shape.name);
    create_shape(shape);
    std::vector<std::byte> content(disk_size), one, two;
    {
      Edge& image = open("a.qcow2");
      change(image, content, 1, shape);
      one = content;
      run(driver(image).create_snapshot(named("one")));
      change(image, content, 2, shape);
      two = content;
      run(driver(image).create_snapshot(named("two")));
      change(image, content, 3, shape);
      EXPECT_EQ(driver(image).snapshots().size(), 2u);
      EXPECT_EQ(driver(image).snapshots()[1].id, "2");
      close_all();
    }
    expect_clean("a.qcow2");
    EXPECT_NE(qemu_img("snapshot -l a.qcow2").find("two"), std::string::npos);
    expect_content("a.qcow2", content);
    expect_snapshot("one", one);
    expect_snapshot("two", two);
    {
      Edge& image = open("a.qcow2");
      run(driver(image).apply_snapshot("one"));
      EXPECT_EQ(read(image, 0, disk_size), one);
      content = one;
      change(image, content, 4, shape);
      close_all();
    }
    expect_clean("a.qcow2");
    expect_content("a.qcow2", content);
    expect_snapshot("one", one);
    expect_snapshot("two", two);
    {
      Edge& image = open("a.qcow2");
      run(driver(image).delete_snapshot("one"));
      change(image, content, 5, shape);
      close_all();
    }
    expect_clean("a.qcow2");
    expect_snapshot("two", two);
    qemu_img("snapshot -a two a.qcow2");
    expect_clean("a.qcow2");
    {
      Edge& image = open("a.qcow2");
      run(driver(image).delete_snapshot("2"));
      EXPECT_EQ(read(image, 0, disk_size), two);
      content = two;
      change(image, content, 6, shape);
      close_all();
    }
    expect_clean("a.qcow2");
    expect_content("a.qcow2", content);
  }
}

TEST_F(Snapshots, QemusAreOurs) {
  for (const SnapshotShape& shape : shapes) {
    SCOPED_TRACE(shape.name);
    create_shape(shape);
    std::vector<std::byte> content(disk_size), one, two;
    change(open("a.qcow2"), content, 1, shape);
    close_all();
    one = content;
    qemu_img("snapshot -c one a.qcow2");
    change(open("a.qcow2"), content, 2, shape);
    close_all();
    two = content;
    qemu_img("snapshot -c two a.qcow2");
    expect_snapshot("one", one);
    expect_snapshot("two", two);
    Edge& image = open("a.qcow2");
    run(driver(image).delete_snapshot("two"));
    change(image, content, 3, shape);
    run(driver(image).apply_snapshot("one"));
    EXPECT_EQ(read(image, 0, disk_size), one);
    run(driver(image).create_snapshot(named("three")));
    close_all();
    expect_clean("a.qcow2");
    expect_snapshot("one", one);
    expect_snapshot("three", one);
    qemu_img("snapshot -d one a.qcow2");
    qemu_img("snapshot -d three a.qcow2");
    expect_clean("a.qcow2");
    expect_content("a.qcow2", one);
  }
}

TEST_F(Snapshots, BringTheSizeBack) {
  create_shape(shapes[0]);
  Edge& image = open("a.qcow2");
  const std::vector<std::byte> data(64 * KiB, std::byte{9});
  write(image, disk_size - data.size(), data);
  run(driver(image).create_snapshot(named("small")));
  run(image.truncate(64 * MiB));
  write(image, 63 * MiB, data);
  run(driver(image).create_snapshot(named("large")));
  run(driver(image).apply_snapshot("small"));
  EXPECT_EQ(image.size(), disk_size);
  EXPECT_EQ(read(image, disk_size - data.size(), data.size()), data);
  run(driver(image).apply_snapshot("large"));
  EXPECT_EQ(image.size(), 64 * MiB);
  EXPECT_EQ(read(image, 63 * MiB, data.size()), data);
  close_all();
  expect_clean("a.qcow2");
}

TEST_F(Snapshots, RefuseWhatCannotBe) {
  Qcow2CreateOptions one_bit;
  one_bit.size = disk_size;
  one_bit.refcount_bits = 1;
  create("a.qcow2", one_bit);
  Edge& image = open("a.qcow2");
  write(image, 0, std::vector<std::byte>(1 * MiB, std::byte{1}));
  EXPECT_NE(failure(driver(image).create_snapshot(named("one"))).find("1 bits of refcount can say"), std::string::npos);
  EXPECT_EQ(failure(driver(image).apply_snapshot("one")), "Can't find snapshot 'one'");
  EXPECT_EQ(failure(driver(image).delete_snapshot("1")), "Can't find snapshot '1'");
  EXPECT_EQ(read(image, 0, MiB), std::vector<std::byte>(1 * MiB, std::byte{1}));
  write(image, MiB, std::vector<std::byte>(1 * MiB, std::byte{2}));
  close_all();
  expect_clean("a.qcow2");
  Qcow2CreateOptions outside;
  outside.size = disk_size;
  outside.data_file = "b.data";
  create("b.qcow2", outside);
  EXPECT_EQ(failure(driver(open("b.qcow2")).create_snapshot(named("one"))),
            "qcow2: images with an external data file cannot have internal snapshots");
}

// A table that says what cannot be.
TEST_F(Snapshots, ATableThatLiesIsRefused) {
  const auto patch = [this](std::uint64_t in_entry, std::uint64_t value, std::size_t bytes) {
    create_shape(shapes[0]);
    run(driver(open("a.qcow2")).create_snapshot(named("one")));
    close_all();
    std::FILE* file = std::fopen(path("a.qcow2").c_str(), "r+b");
    std::byte at[8], big[8];
    std::fseek(file, 64, SEEK_SET);
    EXPECT_EQ(std::fread(at, 1, 8, file), 8u);
    store_be(big, value);
    std::fseek(file, static_cast<long>(load_be<std::uint64_t>(at) + in_entry), SEEK_SET);
    std::fwrite(big + 8 - bytes, 1, bytes, file);
    std::fclose(file);
    return open_failure("a.qcow2");
  };
  EXPECT_EQ(patch(0, 512, 8), "Snapshot L1 table offset invalid");
  EXPECT_EQ(patch(0, TiB, 8), "Snapshot L1 table offset invalid");
  EXPECT_EQ(patch(8, 0xffffffff, 4), "Snapshot L1 table too large");
  EXPECT_EQ(patch(36, 0xffffffff, 4), "Too much extra metadata in snapshot table entry");
  EXPECT_EQ(patch(0, 0, 8), "Snapshot L1 table offset invalid");
}

// What is found piecemeal and given back, while room in one piece is looked for, is free already in the next refcounts.
TEST_F(Snapshots, OfFragmentedImages) {
  constexpr std::uint64_t size = 32 * MiB, piece = 4096;
  const auto fragment = [this](Edge& image) {
    const std::vector<std::byte> data(2 * MiB, std::byte{3});
    write(image, 0, data);
    run(image.flush());
    for (std::uint64_t at = 0; at < data.size(); at += 2 * piece) run(image.discard({at, piece}));
    run(image.flush());
  };
  Qcow2CreateOptions options;
  options.size = size;
  options.cluster_size = 512;
  create("a.qcow2", options);
  Edge& image = open("a.qcow2");
  fragment(image);
  run(driver(image).create_snapshot(named("one")));
  run(image.flush());
  write(image, 16 * MiB, std::vector<std::byte>(2 * MiB, std::byte{4}));
  run(image.flush());
  fragment(image);
  run(driver(image).apply_snapshot("one"));
  run(image.flush());
  run(driver(image).delete_snapshot("one"));
  write(image, 16 * MiB, std::vector<std::byte>(2 * MiB, std::byte{4}));
  run(image.flush());
  close_all();
  expect_clean("a.qcow2");
}

}  // namespace
}  // namespace tidemark::test
