#include "format/raw/raw.hpp"

#include <cstring>

#include "block/test_driver.hpp"
#include "io/aligned.hpp"
#include "storage/memory.hpp"

namespace tidemark::test {
namespace {

class RawTest : public BlockTest {
 protected:
  // A file of `size` bytes that count up by sector, and raw on it.
  Result<std::unique_ptr<RawDriver>> open(RawOptions options, std::uint64_t size = MiB) {
    MemoryOptions memory;
    memory.size = size;
    auto driver = open_memory(memory);
    file_ = &add("file" + std::to_string(++files_), *std::move(driver));
    auto filler = Edge::attach(*file_, Role::root, {Permissions::write, Permissions::all}, "filler");
    AlignedBuffer bytes(size);
    for (std::uint64_t at = 0; at < size; ++at) bytes.data()[at] = static_cast<std::byte>(at / 512);
    run((*filler)->write(0, bytes.bytes()));
    auto edge = Edge::attach(*file_, Role::file, {Permissions::consistent_read, Permissions::all}, "test");
    return RawDriver::open(*std::move(edge), options);
  }
  std::string refusal(RawOptions options) {
    const auto opened = open(options);
    return opened ? "opened" : opened.error().message();
  }
  BlockNode* file_ = nullptr;
  int files_ = 0;
};

TEST_F(RawTest, ShowsTheWholeFile) {
  auto raw = *open({});
  EXPECT_EQ(raw->size(), MiB);
  AlignedBuffer buffer(512);
  run(raw->read(1024, buffer.bytes()));
  EXPECT_EQ(buffer.data()[0], std::byte{2});
  run(raw->truncate(2 * MiB, Growth::zeroes));
  EXPECT_EQ(raw->size(), 2 * MiB);
  run(raw->close());
}

TEST_F(RawTest, ShowsAWindow) {
  RawOptions options;
  options.offset = 512;
  options.size = 2048;
  auto raw = *open(options);
  EXPECT_EQ(raw->size(), 2048u);
  AlignedBuffer buffer(512);
  run(raw->read(512, buffer.bytes()));
  EXPECT_EQ(buffer.data()[0], std::byte{2});
  std::memset(buffer.data(), 0x77, 512);
  run(raw->write(1536, buffer.bytes(), WriteFlags::none));
  const Range last{1536, 512};
  const Extent extent = run(raw->map(last));
  EXPECT_EQ(extent.range, last);
  EXPECT_EQ(extent.host_offset, 2048u);
  EXPECT_EQ(error_of(raw->truncate(MiB, Growth::zeroes)).message(), "Cannot resize fixed-size raw disks");
  run(raw->close());
  auto reader = Edge::attach(*file_, Role::root, {Permissions::consistent_read, Permissions::all}, "reader");
  run((*reader)->read(2048, buffer.bytes()));
  EXPECT_EQ(buffer.data()[0], std::byte{0x77});
  run((*reader)->read(2560, buffer.bytes()));
  EXPECT_EQ(buffer.data()[0], std::byte{5});
}

// Nodes complete requests to whole units, behind the end of the disk too.
TEST_F(RawTest, WhatCompletesItsLastUnitStaysOutOfTheFile) {
  RawOptions options;
  options.size = 2560;
  auto window = *open(options);
  AlignedBuffer buffer(4096);
  std::memset(buffer.data(), 0x77, 2560);
  std::memset(buffer.data() + 2560, 0, buffer.size() - 2560);
  run(window->write(0, buffer.bytes(), WriteFlags::none));
  run(window->read(0, buffer.bytes()));
  EXPECT_EQ(buffer.data()[2559], std::byte{0x77});
  EXPECT_EQ(buffer.data()[2560], std::byte{0});
  run(window->write_zeroes({0, 4096}, WriteFlags::none));
  run(window->discard({0, 4096}));
  run(window->close());
  auto reader = Edge::attach(*file_, Role::root, {Permissions::consistent_read, Permissions::all}, "reader");
  run((*reader)->read(2560, Buffers(buffer.bytes().first(512))));
  EXPECT_EQ(buffer.data()[0], std::byte{5});
  auto whole = *open({}, 2560);
  run(whole->read(0, buffer.bytes()));
  run(whole->write(0, buffer.bytes(), WriteFlags::none));
  run(whole->write_zeroes({0, 4096}, WriteFlags::none));
  run(whole->discard({0, 4096}));
  EXPECT_EQ(whole->size(), 2560u);
  run(whole->close());
}

TEST_F(RawTest, WhatAnOddOffsetLeavesNoPlaceForIsRefused) {
  RawOptions options;
  options.offset = 100;
  auto raw = *open(options, 4096);
  EXPECT_EQ(raw->size(), 3996u);
  AlignedBuffer buffer(512);
  run(raw->read(3584, buffer.bytes()));
  EXPECT_EQ(buffer.data()[411], std::byte{7});
  EXPECT_EQ(buffer.data()[412], std::byte{0});
  run(raw->write(3584, buffer.bytes(), WriteFlags::none));
  const MutableBytes behind = buffer.bytes().first(10);
  run(raw->read(4000, behind));
  EXPECT_TRUE(is_zero(behind));
  run(raw->write(4000, behind, WriteFlags::none));
  run(raw->write_zeroes({4000, 10}, WriteFlags::none));
  run(raw->discard({4000, 10}));
  buffer.data()[412] = std::byte{1};
  EXPECT_EQ(error_of(raw->write(3584, buffer.bytes(), WriteFlags::none)).code(), Errc::no_space);
  run(raw->close());
}

TEST_F(RawTest, RefusesAsQemuDoes) {
  EXPECT_EQ(refusal({2 * MiB, {}}),
            "Offset (2097152) cannot be greater than size of the containing file (1048576)");
  EXPECT_EQ(refusal({512, MiB}),
            "The sum of offset (512) and size (1048576) has to be smaller or equal to the actual size of the "
            "containing file (1048576)");
  EXPECT_EQ(refusal({0, 1000}), "Specified size is not multiple of 512");
  EXPECT_EQ(refusal({MiB, 0}), "opened");
}

}  // namespace
}  // namespace tidemark::test
