// For tests of tracking stores: a machine with one disk and its store, on which processes come and go.
#pragma once

#include <gmock/gmock.h>

#include "io/aligned.hpp"
#include "tests/sim/tracking_workload.hpp"

namespace tidemark::sim {

using tracking::Mode;
using tracking::StoreReport;
using testing::HasSubstr;

inline const std::string image = "/d/disk", store = "/d/disk.tidemark";

struct TrackingStoreTest : testing::Test {
  TrackingStoreTest() {
    world.disk().make_directory("/d");
    world.disk().import_file(image, std::vector<std::byte>(disk.size));
    set_boot("this boot\n");
    world.disk().sync_all();
  }
  void set_boot(std::string_view id) {
    const Bytes bytes = as_bytes(id);
    machine->disk().import_file("/proc/sys/kernel/random/boot_id", std::vector<std::byte>(bytes.begin(), bytes.end()));
  }

  // use(TrackedNode&) -> Task<>, on a node that is opened and closed in a process of its own.
  template <class Use>
  Result<> session(Use use, bool kill = false) {
    SimProcess process(*machine);
    auto all = [&]() -> Task<> {
      TrackedNode node(process, disk);
      co_await node.open();
      const Result<> used = co_await use(node).result();
      const auto before = node.reports();
      if (kill) process.backend().kill();
      const Result<> closed = co_await node.close().result();
      const auto& told = kill ? before : node.reports();
      reports.insert(reports.end(), told.begin(), told.end());
      co_await unwrap(used);
      if (!kill) co_await unwrap(closed);
    };
    return process.run(all());
  }
  static Task<> add(TrackedNode& node) {
    co_await node.add_store();
    NodeBitmap* bitmap = co_await unwrap(node.node().bitmaps().add("b", node.node().size(), 4096));
    bitmap->set_persistent(true);
    co_await node.store()->save();
  }
  static Task<> write(TrackedNode& node, std::uint64_t offset, std::uint64_t length = 512) {
    AlignedBuffer data(length);
    Buffers(data.bytes()).fill_zero();
    data.data()[0] = std::byte{7};
    co_await node.edge().write(offset, data.bytes());
  }
  void write_as_another() {
    SimProcess other(world, "other");
    auto write_file = [&]() -> Task<> {
      OpenFlags flags;
      flags.write = true;
      File opened = co_await File::open(other.reactor(), image, flags);
      co_await other.reactor().sleep(std::chrono::milliseconds(1));
      std::byte one{1};
      const Buffers data(MutableBytes(&one, 1));
      const Result<> written = co_await opened.write(5, data).result();
      co_await opened.close();
      co_await unwrap(written);
    };
    ASSERT_TRUE(other.run(write_file()).ok());
  }
  void fail(IoOp::Kind kind, const std::string& path, std::uint64_t count, std::uint64_t skip = 0) {
    SimFault fault;
    fault.kind = kind;
    fault.path = path;
    fault.count = count;
    fault.skip = skip;
    world.faults().add(fault);
  }
  void fail_writes(std::uint64_t count) { fail(IoOp::Kind::write, store, count); }
  void make(bool kill = false) {
    auto use = [](TrackedNode& node) -> Task<> {
      co_await add(node);
      co_await write(node, 8192);
    };
    const Result<> made = session(use, kill);
    ASSERT_TRUE(made.ok()) << made.error().message();
  }
  // What is there then.
  struct Found {
    bool there = false;
    std::uint64_t dirty = 0, suspected = 0;
    std::string inconsistent;
  };
  Found look() {
    Found found;
    auto use = [&](TrackedNode& node) -> Task<> {
      const NodeBitmap* bitmap = node.node().bitmaps().find("b");
      if (!bitmap) co_return;
      found = {true, bitmap->dirty_bytes(), bitmap->suspected_bytes(), bitmap->inconsistent_reason()};
    };
    const Result<> looked = session(use);
    EXPECT_TRUE(looked.ok()) << looked.error().message();
    return found;
  }
  std::vector<std::byte> file(const std::string& path) { return world.disk().export_file(path); }
  bool reported(StoreReport::Kind kind) const {
    return std::any_of(reports.begin(), reports.end(), [&](const StoreReport& r) { return r.kind == kind; });
  }

  SimWorld world{1};
  SimWorld* machine = &world;                    // or what a power cut left of it
  TrackedDisk disk;
  std::vector<StoreReport> reports;
};

}  // namespace tidemark::sim
