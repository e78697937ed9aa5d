// Block status over chains of layers and filters.
#include "block/status.hpp"

#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

// base (32 KiB) <- mid <- top (64 KiB), each with a mapping of its own; a filter over mid.
class StatusTest : public BlockTest {
 protected:
  StatusTest() {
    layer("base", nullptr, 32 * KiB);
    layer("mid", &node("base"), 64 * KiB);
    TestParent& filter = add_parent("filter", {{&node("mid"), Role::filtered}}, true);
    filter.mapping = [](Range) -> Extent {
      ADD_FAILURE() << "a filter was asked";
      return {};
    };
    layer("top", &node("filter"), 64 * KiB);
  }
  void layer(std::string name, BlockNode* backing, std::uint64_t size) {
    TestDriverOptions options;
    options.size = size;
    add_disk(name + "-file", options);
    std::vector<Child> children = {{&node(name + "-file"), Role::file}};
    if (backing) children.push_back({backing, Role::backing});
    TestParent& added = add_parent(name, children);
    set(name, Mapping::below);
    EXPECT_EQ(added.size(), size);
  }
  // All of the layer is like this.
  void set(std::string_view name, Mapping mapping, std::optional<std::uint64_t> host = {}) {
    static_cast<TestParent&>(node(name).driver()).mapping = [=](Range wanted) {
      return Extent{wanted, mapping, host ? std::optional(*host + wanted.offset) : host};
    };
  }
  BlockStatus at(std::uint64_t offset, BlockNode* base = nullptr, std::uint64_t length = 4096) {
    const Range wanted{offset, length};
    return run(block_status_above(node("top"), base, wanted));
  }
};

TEST_F(StatusTest, NothingAnywhereReadsZero) {
  const BlockStatus status = at(4096);
  EXPECT_EQ(status.range, (Range{4096, 4096}));
  EXPECT_TRUE(status.zero);
  EXPECT_FALSE(status.data || status.allocated);
  EXPECT_EQ(status.depth, 0u);
}

TEST_F(StatusTest, TheTopLayerDecidesFirst) {
  set("top", Mapping::data, 1 * MiB);
  set("mid", Mapping::zero);
  const BlockStatus status = at(4096);
  EXPECT_TRUE(status.data && status.allocated && !status.zero);
  EXPECT_EQ(status.depth, 1u);
  EXPECT_EQ(status.host_offset, 1 * MiB + 4096);
  EXPECT_EQ(status.host, &node("top-file"));
}

TEST_F(StatusTest, FiltersCountAsNoLayer) {
  set("mid", Mapping::zero_allocated, 0);
  EXPECT_EQ(at(0).depth, 2u);
  EXPECT_TRUE(at(0).zero && at(0).allocated);
  set("mid", Mapping::below);
  set("base", Mapping::compressed);
  EXPECT_EQ(at(0).depth, 3u);
  EXPECT_TRUE(at(0).data);
  EXPECT_FALSE(at(0).host_offset);
}

TEST_F(StatusTest, StopsAtTheBase) {
  set("base", Mapping::data, 0);
  const BlockStatus status = at(0, &node("base"));
  EXPECT_FALSE(status.allocated || status.data || status.zero);
  set("mid", Mapping::data, 0);
  EXPECT_TRUE(at(0, &node("base")).allocated);
  EXPECT_FALSE(at(0, &node("filter")).allocated);  // the filter stands for what it shows
}

TEST_F(StatusTest, BeyondAShorterBackingFileThereAreZeroes) {
  set("base", Mapping::data, 0);
  const BlockStatus across = at(28 * KiB, nullptr, 8 * KiB);
  EXPECT_TRUE(across.data);
  EXPECT_EQ(across.range, (Range{28 * KiB, 4 * KiB}));
  const BlockStatus beyond = at(32 * KiB);
  EXPECT_TRUE(beyond.zero && beyond.allocated);
  EXPECT_EQ(beyond.depth, 3u);
}

}  // namespace
}  // namespace tidemark::test
