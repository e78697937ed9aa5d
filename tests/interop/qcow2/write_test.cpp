// Images that we make and write to, as QEMU sees them.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

struct Shape {
  std::uint64_t size, cluster_size;
  std::uint32_t version = 3, refcount_bits = 16;
  bool extended_l2 = false, data_file = false, data_file_raw = false;
  Qcow2Preallocation preallocation = Qcow2Preallocation::off;
};

void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.size << " bytes, clusters of " << shape.cluster_size; }

class WrittenImage : public ImageTest, public ::testing::WithParamInterface<Shape> {
 protected:
  Qcow2CreateOptions options() const {
    Qcow2CreateOptions o;
    o.size = GetParam().size;
    o.cluster_size = GetParam().cluster_size;
    o.version = GetParam().version;
    o.refcount_bits = GetParam().refcount_bits;
    o.extended_l2 = GetParam().extended_l2;
    if (GetParam().data_file) o.data_file = "a.data";
    o.data_file_raw = GetParam().data_file_raw;
    o.preallocation = GetParam().preallocation;
    return o;
  }
};

TEST_P(WrittenImage, IsEmptyAndCleanWhenCreated) {
  create("a.qcow2", options());
  expect_clean("a.qcow2");
  Edge& image = open("a.qcow2");
  EXPECT_EQ(image.size(), GetParam().size);
  EXPECT_TRUE(is_zero(read(image, 0, 64 * KiB)));
  close_all();
  expect_clean("a.qcow2");
}

TEST_P(WrittenImage, HoldsWhatWasWritten) {
  create("a.qcow2", options());
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    Edge& image = open("a.qcow2");
    RandomOps ops(*reactor_, image, read(image, 0, image.size()), seed, GetParam().cluster_size);
    ops.compressed = seed != 1 && !GetParam().data_file;
    run(ops.run(60));
    run(ops.compare({0, image.size()}));
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
    if (GetParam().data_file_raw) {
      const Output same = run_shell("cd '" + directory_ + "' && cmp a.data expected.raw");
      EXPECT_EQ(same.status, 0) << same.text;
    }
  }
}

constexpr auto off = Qcow2Preallocation::off, metadata = Qcow2Preallocation::metadata, falloc = Qcow2Preallocation::falloc,
               full = Qcow2Preallocation::full;

INSTANTIATE_TEST_SUITE_P(
    Shapes, WrittenImage,
    ::testing::Values(Shape{8 * MiB, 64 * KiB}, Shape{3 * MiB + 512, 64 * KiB}, Shape{2 * MiB, 512},
                      Shape{4 * MiB, 4 * KiB}, Shape{24 * MiB, 2 * MiB}, Shape{8 * MiB, 64 * KiB, 2},
                      Shape{4 * MiB, 16 * KiB, 3, 1}, Shape{1 * MiB, 512, 3, 64}, Shape{4 * MiB, 8 * KiB, 3, 4},
                      Shape{4 * MiB, 1 * KiB, 3, 2}, Shape{4 * MiB, 32 * KiB, 3, 8}, Shape{4 * MiB, 128 * KiB, 3, 32},
                      Shape{3 * MiB + 512, 512, 2}, Shape{24 * MiB, 2 * MiB, 2},
                      Shape{8 * MiB, 64 * KiB, 3, 16, true}, Shape{5 * MiB + 512, 16 * KiB, 3, 16, true},
                      Shape{24 * MiB, 2 * MiB, 3, 1, true}, Shape{8 * MiB, 64 * KiB, 3, 16, false, true},
                      Shape{3 * MiB + 512, 4 * KiB, 3, 16, false, true}, Shape{8 * MiB, 64 * KiB, 3, 16, true, true},
                      Shape{3 * MiB + 512, 64 * KiB, 3, 16, false, true, true},
                      Shape{3 * MiB + 512, 16 * KiB, 3, 16, true, true, true},
                      Shape{6 * MiB, 64 * KiB, 3, 16, false, false, false, metadata},
                      Shape{3 * MiB + 512, 512, 3, 64, false, false, false, metadata},
                      Shape{6 * MiB, 4 * KiB, 2, 16, false, false, false, falloc},
                      Shape{6 * MiB, 32 * KiB, 3, 16, true, false, false, falloc},
                      Shape{3 * MiB + 512, 64 * KiB, 3, 16, false, false, false, full},
                      Shape{3 * MiB + 512, 64 * KiB, 3, 16, false, true, true, full},
                      Shape{3 * MiB, 64 * KiB, 3, 16, true, true, false, off}));

}  // namespace
}  // namespace tidemark::test
