// Images that we make and write to, as QEMU sees them.
#include "tests/interop/qcow2/random_ops.hpp"

namespace tidemark::test {
namespace {

struct Shape {
  std::uint64_t size, cluster_size;
  std::uint32_t version = 3, refcount_bits = 16;
};

class WrittenImage : public ImageTest, public ::testing::WithParamInterface<Shape> {
 protected:
  Qcow2CreateOptions options() const {
    Qcow2CreateOptions o;
    o.size = GetParam().size;
    o.cluster_size = GetParam().cluster_size;
    o.version = GetParam().version;
    o.refcount_bits = GetParam().refcount_bits;
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
    ops.compressed = seed != 1;
    run(ops.run(60));
    run(ops.compare({0, image.size()}));
    close_all();
    expect_clean("a.qcow2");
    expect_content("a.qcow2", ops.content());
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, WrittenImage,
    ::testing::Values(Shape{8 * MiB, 64 * KiB}, Shape{3 * MiB + 512, 64 * KiB}, Shape{2 * MiB, 512},
                      Shape{4 * MiB, 4 * KiB}, Shape{24 * MiB, 2 * MiB}, Shape{8 * MiB, 64 * KiB, 2},
                      Shape{4 * MiB, 16 * KiB, 3, 1}, Shape{1 * MiB, 512, 3, 64}, Shape{4 * MiB, 8 * KiB, 3, 4}));

}  // namespace
}  // namespace tidemark::test
