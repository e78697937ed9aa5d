// Images on storage that is full, or fails at a bad moment: what was written stays right, and what can go
// on does.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "filter/fault.hpp"
#include "task/group.hpp"
#include "tests/interop/qcow2/rig.hpp"

namespace tidemark::test {
namespace {

class Trouble : public ImageTest {
 protected:
  using P = Permissions;
  static constexpr Permissions all_rights{P::consistent_read | P::write | P::resize, P::all};

  Task<Edge*> open_on(BlockNode& storage) {
    auto edge = co_await unwrap(Edge::attach(storage, Role::file, file_permissions(false), "test"));
    Qcow2OpenOptions options;
    auto driver = co_await Qcow2Driver::open(std::move(edge), options);
    NodeOptions named;
    BlockNode* image = co_await graph_->add(named, std::move(driver));
    roots_.push_back(co_await unwrap(Edge::attach(*image, Role::root, all_rights, "test")));
    co_return roots_.back().get();
  }
  Task<BlockNode*> add(std::unique_ptr<BlockDriver> driver) {
    NodeOptions named;
    co_return co_await graph_->add(named, std::move(driver));
  }

  // What the storage makes of flushes from now on.
  Task<BlockNode*> add_with_flushes(FaultRule fate) {
    BlockNode* file = co_await open_file_node(path("a.qcow2"), false);
    fate.op = FaultOp::flush;
    fate.os_errno = EIO;
    FaultOptions options{file, {fate}, 1};
    auto fault = co_await unwrap(open_fault(options));
    co_return co_await add(std::move(fault));
  }
};

// Storage that cannot grow, as a volume of a volume manager.
TEST_F(Trouble, WhatWasDiscardedCanBeWrittenWhereNothingElseIsFree) {
  constexpr std::uint64_t cluster = 64 * KiB, device = 20 * cluster;
  write_file("device", std::vector<std::byte>(device));
  BlockNode* file = run(open_file_node(path("device"), false));
  RawOptions fixed;
  fixed.size = device;
  auto raw = RawDriver::open(*Edge::attach(*file, Role::file, all_rights, "test"), fixed);
  BlockNode* storage = run(add(*std::move(raw)));
  Qcow2CreateOptions options;
  options.size = 4 * MiB;
  {
    auto making = Edge::attach(*storage, Role::root, all_rights, "test");
    run(Qcow2Driver::create(**making, options));
  }
  Edge& image = *run(open_on(*storage));
  const std::vector<std::byte> data(cluster, std::byte{5});
  std::uint64_t at = 0;
  std::string refused = "no error";
  for (; refused == "no error" && at < 4 * MiB; at += cluster)
    refused = failure(image.write(at, Buffers::of_const(data)));
  EXPECT_NE(refused.find("is full and cannot grow"), std::string::npos) << refused;
  const Range freed{0, 2 * cluster};
  run(image.discard(freed));
  write(image, 3 * MiB, data);
  write(image, 3 * MiB + cluster, data);
  EXPECT_EQ(read(image, 3 * MiB, cluster), data);
  EXPECT_TRUE(is_zero(read(image, 0, cluster)));
  close_all();
  expect_clean("device");
}

// Who reads meanwhile keeps it from being used again for a while, not for good.
TEST_F(Trouble, WhatWasDiscardedIsWaitedForWhileOthersRead) {
  constexpr std::uint64_t cluster = 64 * KiB, device = 20 * cluster;
  write_file("device", std::vector<std::byte>(device));
  BlockNode* file = run(open_file_node(path("device"), false));
  RawOptions fixed;
  fixed.size = device;
  auto raw = RawDriver::open(*Edge::attach(*file, Role::file, all_rights, "test"), fixed);
  BlockNode* volume = run(add(*std::move(raw)));
  FaultRule slow;
  slow.op = FaultOp::read;
  slow.latency_ns = 200'000'000;
  slow.one_in = 0;
  FaultOptions slowly;
  slowly.rules = {slow};
  auto fault = std::make_unique<Fault>(*reactor_, *Edge::attach(*volume, Role::file, all_rights, "test"), slowly);
  Fault& reads = *fault;
  BlockNode* storage = run(add(std::move(fault)));
  Qcow2CreateOptions options;
  options.size = 4 * MiB;
  {
    auto making = Edge::attach(*storage, Role::root, all_rights, "test");
    run(Qcow2Driver::create(**making, options));
  }
  Edge& image = *run(open_on(*storage));
  const std::vector<std::byte> data(cluster, std::byte{5});
  std::uint64_t at = 0;
  while (failure(image.write(at, Buffers::of_const(data))) == "no error") at += cluster;
  slow.one_in = 1;
  reads.set_rules({slow});
  std::vector<std::byte> seen(cluster);
  const auto beside = [&](TaskGroup& group) -> Task<> {
    group.spawn(image.read(2 * cluster, Buffers(MutableBytes(seen))));
    const Range freed{0, cluster};
    co_await image.discard(freed);
    co_await image.write(3 * MiB, Buffers::of_const(data));
    co_await group.join();
  };
  run(with_group(*reactor_, beside));
  EXPECT_EQ(seen, data);
  close_all();
  expect_clean("device");
}

// Flushes fail for a while, or, as those of a file whose sync has failed once, for ever.  The image is not to
// blame: once it is opened anew, where it is or after its end, what is asked again succeeds.
TEST_F(Trouble, AResizeDuringWhichFlushesFailIsNoCorruption) {
  const std::vector<std::byte> data(64 * KiB, std::byte{6});
  int went_on = 0;
  for (const std::uint64_t count : {2, 0})
    for (const std::uint64_t size : {64 * MiB, 512 * KiB}) {
      std::string outcome;
      for (std::uint64_t skip = 0; outcome != "no error"; ++skip) {
        const std::string when = fmt::format("{} flushes from {} on, to {} bytes", count, skip, size);
        Qcow2CreateOptions options;
        options.size = MiB;
        options.cluster_size = 512;
        create("a.qcow2", options);
        Edge& fresh = open("a.qcow2");
        write(fresh, 0, data);
        write(fresh, MiB - data.size(), data);
        close_all();
        FaultRule fails;
        fails.skip = skip;
        fails.count = count;
        Edge& image = *run(open_on(*run(add_with_flushes(fails))));
        outcome = failure(image.truncate(size));
        const std::string written = failure(image.write(0, Buffers::of_const(data)));
        if (outcome != "no error") {
          EXPECT_THAT(written, testing::HasSubstr("has lost what was written since its last flush")) << when;
        }
        EXPECT_EQ(read(image, 0, data.size()), data) << when;
        auto& driver = static_cast<Qcow2Driver&>(image.node().driver());
        Result<> anew = Error(Errc::io, "");
        for (std::uint64_t i = 0; i <= count && !anew; ++i) anew = reactor_->run(driver.open_anew());
        if (count != 0 && anew) {
          EXPECT_EQ(failure(image.truncate(size)), "no error") << when;
          ++went_on;
        } else if (count != 0) {
          EXPECT_EQ(anew.error().code(), Errc::busy) << when << ": " << anew.error().message();     // its header was being changed
        }
        roots_.clear();
        (void)reactor_->run(graph_->close_all());
        const Output checked = run_shell("cd '" + directory_ + "' && qemu-img check -f qcow2 a.qcow2");
        EXPECT_TRUE(checked.status == 0 || WEXITSTATUS(checked.status) == 3) << when << "\n" << checked.text;
        Edge& again = open("a.qcow2");
        EXPECT_EQ(read(again, 0, data.size()), data) << when;
        EXPECT_EQ(failure(again.truncate(size)), "no error") << when;
        close_all();
      }
    }
  EXPECT_GT(went_on, 2);
}

// The file says where the longer L1 table lies, or not: whether the header has arrived is not known.
TEST_F(Trouble, ALongerL1TableThatCouldNotBeMadeKnown) {
  Qcow2CreateOptions options;
  options.size = MiB;
  options.cluster_size = 512;
  create("a.qcow2", options);
  const std::vector<std::byte> data(64 * KiB, std::byte{6});
  for (std::uint64_t skip = 0;; ++skip) {
    FaultRule once;
    once.skip = skip;
    once.count = 1;
    Edge& image = *run(open_on(*run(add_with_flushes(once))));
    const std::uint64_t longer = (skip + 2) * 8 * MiB;
    const std::string outcome = failure(image.truncate(longer));
    (void)failure(image.write(0, Buffers::of_const(data)));
    (void)failure(image.write(MiB - data.size(), Buffers::of_const(data)));
    const bool written = failure(image.flush()) == "no error";
    roots_.clear();
    (void)reactor_->run(graph_->close_all());
    const Output checked = run_shell("cd '" + directory_ + "' && qemu-img check -f qcow2 a.qcow2");
    EXPECT_TRUE(checked.status == 0 || WEXITSTATUS(checked.status) == 3) << "flush " << skip << "\n" << checked.text;
    Edge& again = open("a.qcow2");
    if (written) {
      EXPECT_EQ(read(again, 0, data.size()), data) << "flush " << skip;
      EXPECT_EQ(read(again, MiB - data.size(), data.size()), data) << "flush " << skip;
    }
    close_all();
    if (outcome == "no error") break;
  }
}

}  // namespace
}  // namespace tidemark::test
