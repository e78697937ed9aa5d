// Nodes that go, with who used them, after a command has found them and before it does anything: it is told that they are not
// there.
#include <gtest/gtest.h>

#include "control/commands/graph_commands.hpp"
#include "control/commands/reopen_commands.hpp"
#include "control/commands/stats_commands.hpp"
#include "io/threads/threads_backend.hpp"
#include "storage/memory.hpp"
#include "task/group.hpp"

namespace tidemark::test {
namespace {

class NoEvents final : public JobEvents {
  void status_changed(const std::string&, JobStatus) override {}
  void completed(const JobInfo&) override {}
  void cancelled(const JobInfo&) override {}
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}
};

Result<std::unique_ptr<IoBackend>> make_thread(const ThreadOptions&) { return make_threads_backend(2); }

// Nodes on a thread of their own, which carries out in order what comes to it.
class LostNodes : public testing::Test {
 protected:
  LostNodes() {
    EXPECT_TRUE(homes.add_thread("io", {}).ok());
    place = homes.find_thread("io");
  }
  ~LostNodes() override {
    EXPECT_TRUE(reactor.run(homes.close_all()).ok());
    EXPECT_TRUE(reactor.run(homes.remove_thread("io")).ok());
  }

  Task<> add() {
    MemoryOptions memory;
    memory.size = MiB;
    NodeOptions options;
    options.name = "disk";
    (void)co_await place->graph.add(options, *open_memory(memory));
  }
  Task<> remove() { co_await place->graph.remove(*place->graph.find("disk")); }

  // The command's first visit is on its way when the node's end follows it.
  using Command = std::function<Task<>(JobManager&)>;
  Error lost(const Command& command) {
    EXPECT_TRUE(reactor.run(homes.at(*place, add())).ok());
    Result<> done;
    const auto body = [&](TaskGroup& group) -> Task<> {
      JobManager jobs(reactor, group, events);
      const auto tell = [&]() -> Task<> { done = co_await command(jobs).result(); };
      const auto both = [&](TaskGroup& side_by_side) -> Task<> {
        side_by_side.spawn(tell());
        side_by_side.spawn(homes.at(*place, remove()));
        co_await side_by_side.join();
      };
      co_await with_group(reactor, both);
    };
    EXPECT_TRUE(reactor.run(with_group(reactor, body)).ok());
    return done ? Error(Errc::io, "it succeeded") : done.error();
  }

  std::unique_ptr<IoBackend> backend = *make_threads_backend(2);
  Reactor reactor{*backend};
  Homes homes{reactor, make_thread};
  NoEvents events;
  Place* place = nullptr;
};

TEST_F(LostNodes, AWriteThreshold) {
  const Command command = [&](JobManager&) -> Task<> {
    StatsCommandHandler commands(homes);
    schema::BlockSetWriteThresholdArguments arguments;
    arguments.node_name = "disk";
    co_await commands.block_set_write_threshold(arguments);
  };
  EXPECT_EQ(lost(command).message(), "Device 'disk' not found");
}

TEST_F(LostNodes, AResize) {
  const Command command = [&](JobManager& jobs) -> Task<> {
    GraphCommandHandler commands(homes, jobs);
    schema::BlockResizeArguments arguments;
    arguments.node_name = "disk";
    arguments.size = 4096;
    co_await commands.block_resize(arguments);
  };
  EXPECT_EQ(lost(command).message(), "Cannot find device='disk' nor node-name='disk'");
}

TEST_F(LostNodes, AChangeOfAChild) {
  const Command command = [&](JobManager& jobs) -> Task<> {
    GraphCommandHandler commands(homes, jobs);
    schema::XBlockdevChangeArguments arguments;
    arguments.parent = "disk";
    arguments.child = "file";
    co_await commands.x_blockdev_change(arguments);
  };
  EXPECT_EQ(lost(command).message(), "Cannot find device='disk' nor node-name='disk'");
}

TEST_F(LostNodes, AReopening) {
  const Command command = [&](JobManager& jobs) -> Task<> {
    ReopenCommandHandler commands(homes, jobs);
    schema::BlockdevOptionsMemory memory;
    memory.size = MiB;
    schema::BlockdevOptions disk;
    disk.driver = schema::BlockdevDriver::memory;
    disk.node_name = "disk";
    disk.branch = memory;
    schema::BlockdevReopenArguments arguments;
    arguments.options.push_back(disk);
    co_await commands.blockdev_reopen(arguments);
  };
  EXPECT_EQ(lost(command).message(), "Failed to find node with node-name='disk'");
}

}  // namespace
}  // namespace tidemark::test
