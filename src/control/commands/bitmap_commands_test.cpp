// Commands about bitmaps over a store that fails: what is answered is what has happened.
#include "control/commands/bitmap_commands.hpp"

#include <gtest/gtest.h>

#include "backup/digest.hpp"
#include "control/bitmaps/bitmap_following.hpp"
#include "control/commands/transaction_commands.hpp"
#include "control/nodes/node_opener.hpp"
#include "control/nodes/read_only.hpp"
#include "format/qcow2/driver.hpp"
#include "io/sim/backend.hpp"
#include "storage/file.hpp"
#include "task/group.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t size = 4 * MiB, granularity = 64 * KiB;

class NoEvents final : public JobEvents, public EventSink {
  void send(std::string_view, Json) override {}
  void status_changed(const std::string&, JobStatus) override {}
  void completed(const JobInfo&) override {}
  void cancelled(const JobInfo&) override {}
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}
};

Result<std::unique_ptr<IoBackend>> no_threads(const ThreadOptions&) { return Error(Errc::unsupported, "no threads here"); }

class Machine {
 public:
  Machine() {
    add_disk("disk");
    schema::BlockDirtyBitmapAdd add;
    add.node = "disk";
    add.name = "b";
    add.granularity = granularity;
    add.persistent = true;
    run(bitmaps.block_dirty_bitmap_add(std::move(add)));
    const Permissions all{Permissions::write, Permissions::all};
    guest = *Edge::attach(*homes.main().graph.find("disk"), Role::root, all, "a guest");
  }
  ~Machine() {
    guest.reset();
    (void)reactor.run(homes.close_all());
  }
  BlockNode& add_disk(const std::string& name) {
    EXPECT_TRUE(reactor.run(create_file(reactor, "/" + name, size, FilePreallocation::off)).ok());
    schema::BlockdevOptionsFile file;
    file.filename = "/" + name;
    schema::BlockdevOptions options;
    options.driver = schema::BlockdevDriver::file;
    options.node_name = name;
    options.branch = std::move(file);
    NodeOpener opener(homes.main().graph);
    run(add(opener, std::move(options)));
    return *homes.main().graph.find(name);
  }
  static Task<> add(NodeOpener& opener, schema::BlockdevOptions options) { (void)co_await opener.add(std::move(options)); }
  void run(Task<> task) {
    const Result<> done = reactor.run(std::move(task));
    EXPECT_TRUE(done.ok()) << (done ? "" : done.error().message());
  }
  NodeBitmap& bitmap() { return *homes.main().graph.find("disk")->bitmaps().find("b"); }
  static schema::BlockDirtyBitmap that() {
    schema::BlockDirtyBitmap bitmap;
    bitmap.node = "disk";
    bitmap.name = "b";
    return bitmap;
  }
  void on_store(std::uint64_t skip) {
    SimFault fails;
    fails.path = "/disk.tidemark";
    fails.skip = skip;
    fails.count = SimFault::always;
    world.faults().add(fails);
  }

  SimWorld world{1};
  SimBackend io{world};
  Reactor reactor{io};
  Homes homes{reactor, no_threads};
  BitmapCommandHandler bitmaps{homes};
  std::unique_ptr<Edge> guest;
  std::vector<std::byte> data = std::vector<std::byte>(4096, std::byte{7});
};

// The store fails at one point after the other: an error means that the marks are all there.
template <class Clear>
void expect_answered_as_it_was(Clear clear) {
  std::uint64_t failed = 0, done = 0;
  for (std::uint64_t skip = 0; skip < 200 && done < 3; ++skip) {
    Machine machine;
    machine.run(machine.guest->write(0, Buffers::of_const(machine.data)));
    machine.on_store(skip);
    const Result<> cleared = machine.reactor.run(clear(machine));
    EXPECT_EQ(machine.bitmap().bits().empty(), cleared.ok()) << "from operation " << skip << " on";
    ++(cleared ? done : failed);
    machine.world.faults().clear();
  }
  EXPECT_GE(done, 3u);
}

TEST(BitmapCommands, AClearIsAnsweredAsItWas) {
  expect_answered_as_it_was([](Machine& machine) { return machine.bitmaps.block_dirty_bitmap_clear(Machine::that()); });
}

Task<> act(Machine& machine, std::vector<schema::TransactionAction> actions) {
  NoEvents events;
  const auto body = [&](TaskGroup& group) -> Task<> {
    JobManager jobs(machine.reactor, group, events);
    Exports exports(machine.homes, group, events);
    TransactionCommandHandler transactions(machine.homes, jobs, exports);
    schema::TransactionArguments arguments;
    arguments.actions = std::move(actions);
    co_await transactions.transaction(std::move(arguments));
  };
  co_await with_group(machine.reactor, body);
}

std::vector<schema::TransactionAction> clear_that() {
  schema::BlockDirtyBitmapWrapper which;
  which.data = Machine::that();
  std::vector<schema::TransactionAction> actions(1);
  actions[0].type = schema::TransactionActionKind::block_dirty_bitmap_clear;
  actions[0].branch = std::move(which);
  return actions;
}

TEST(BitmapCommands, ATransactionIsAnsweredAsItWas) {
  expect_answered_as_it_was([](Machine& machine) { return act(machine, clear_that()); });
}

Task<> change(BlockNode& node, bool read_only) {
  const auto drained = co_await node.graph().drain(node);
  co_await set_read_only(node, read_only);
}

Task<> only_read(BlockNode& node) { return change(node, true); }

Task<> add_image(Machine& machine) {
  co_await create_file(machine.reactor, "/image", 0, FilePreallocation::off);
  Graph& graph = machine.homes.main().graph;
  NodeOpener opener(graph);
  schema::BlockdevOptionsFile file;
  file.filename = "/image";
  schema::BlockdevOptions storage;
  storage.driver = schema::BlockdevDriver::file;
  storage.node_name = "storage";
  storage.branch = std::move(file);
  BlockNode* made = co_await opener.add(std::move(storage));
  const Permissions writes{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
  auto edge = co_await unwrap(Edge::attach(*made, Role::root, writes, "an image being made"));
  Qcow2CreateOptions create;
  create.size = size;
  co_await Qcow2Driver::create(*edge, create);
  edge.reset();
  schema::BlockdevOptionsQcow2 image;
  image.file.value = std::string("storage");
  schema::BlockdevOptions options;
  options.driver = schema::BlockdevDriver::qcow2;
  options.node_name = "image";
  options.branch = std::move(image);
  (void)co_await opener.add(std::move(options));
  schema::BlockDirtyBitmapAdd add;
  add.node = "image";
  add.name = "b";
  add.persistent = true;
  co_await machine.bitmaps.block_dirty_bitmap_add(std::move(add));
}

// As a mirror pivots: users and bitmaps go to the target.
Task<> move_disk(BlockNode& disk, BlockNode& target) {
  const auto still = co_await disk.graph().drain(disk);
  const auto target_still = co_await disk.graph().drain(target);
  co_await prepare_to_follow(disk, target);
  const auto bitmaps_stay = co_await disk.graph().bitmap_changes().lock();
  co_await bring_following_bitmaps(disk, target);
  co_await unwrap(disk.graph().replace(disk, target));
  drop_following_bitmaps(disk);
}

SimFault takes_a_second(IoOp::Kind kind, std::uint64_t skip = 0) {
  SimFault slow;
  slow.action = SimFault::Action::delay;
  slow.kind = kind;
  slow.path = "/disk";
  slow.skip = skip;
  slow.delay = std::chrono::seconds(1);
  return slow;
}

// The disk moves while the command waits.
Result<> with_move(Machine& machine, BlockNode& target, Task<> command) {
  BlockNode& disk = *machine.homes.main().graph.find("disk");
  Result<> done;
  const auto answer = [&]() -> Task<> { done = co_await std::move(command).result(); };
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(answer());
    co_await machine.reactor.sleep(std::chrono::milliseconds(500));
    co_await move_disk(disk, target);
    co_await group.join();
  };
  machine.run(with_group(machine.reactor, body));
  return done;
}

schema::BlockDirtyBitmapAdd new_bitmap(bool follows) {
  schema::BlockDirtyBitmapAdd add;
  add.node = "disk";
  add.name = "new";
  add.granularity = granularity;
  add.persistent = true;
  add.follows_disk = follows;
  return add;
}

// What could not be saved where the disk was has followed it, and is durable there: it is there, and an error would mean it is not.
TEST(BitmapCommands, WhatFollowsTheDiskWhileItIsSavedIsDone) {
  for (const bool follows : {true, false}) {
    Machine machine;
    BlockNode& target = machine.add_disk("target");
    machine.run(machine.guest->write(0, Buffers::of_const(machine.data)));
    machine.on_store(0);
    machine.world.faults().add(takes_a_second(IoOp::Kind::sync));
    schema::BlockDirtyBitmapAdd add = new_bitmap(follows);
    const Result<> added = with_move(machine, target, machine.bitmaps.block_dirty_bitmap_add(std::move(add)));
    EXPECT_EQ(added.ok(), follows);
    EXPECT_EQ(target.bitmaps().find("new") != nullptr, follows);
    EXPECT_EQ(machine.homes.main().graph.find("disk")->bitmaps().find("new"), nullptr);
    machine.world.faults().clear();
  }
}

// Else a bitmap that a transaction had cleared would not get its marks back where the disk is by then.
TEST(BitmapCommands, TheDiskDoesNotMoveInTheMidstOfATransaction) {
  Machine machine;
  BlockNode& target = machine.add_disk("target");
  machine.run(machine.guest->write(0, Buffers::of_const(machine.data)));
  machine.bitmap().set_follows(true);
  schema::BlockDirtyBitmapAddWrapper add;
  add.data = new_bitmap(true);
  std::vector<schema::TransactionAction> actions = clear_that();
  actions.emplace_back();
  actions.back().type = schema::TransactionActionKind::block_dirty_bitmap_add;
  actions.back().branch = std::move(add);
  machine.on_store(0);
  machine.world.faults().add(takes_a_second(IoOp::Kind::sync));
  EXPECT_FALSE(with_move(machine, target, act(machine, std::move(actions))).ok());
  EXPECT_EQ(target.bitmaps().find("new"), nullptr);
  ASSERT_NE(target.bitmaps().find("b"), nullptr);
  EXPECT_FALSE(target.bitmaps().find("b")->bits().empty());
  machine.world.faults().clear();
}

// What begins while the disk moves begins after it: nothing that is not brought along is believed to be done.
TEST(BitmapCommands, NothingIsChangedInTheMidstOfAMove) {
  Machine machine;
  BlockNode& target = machine.add_disk("target");
  machine.bitmap().set_follows(true);
  machine.bitmap().set_enabled(false);
  SimFault slow = takes_a_second(IoOp::Kind::sync);
  slow.path = "/target.tidemark";
  machine.world.faults().add(slow);
  BlockNode& disk = *machine.homes.main().graph.find("disk");
  Result<> enabled;
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(move_disk(disk, target));
    co_await machine.reactor.sleep(std::chrono::milliseconds(500));
    enabled = co_await machine.bitmaps.block_dirty_bitmap_enable(Machine::that()).result();
    co_await group.join();
  };
  machine.run(with_group(machine.reactor, body));
  ASSERT_NE(target.bitmaps().find("b"), nullptr);
  EXPECT_EQ(target.bitmaps().find("b")->enabled(), enabled.ok());
}

// What the target holds says nothing of the node that a bitmap has stayed with, or has left.
TEST(BitmapCommands, OnlyTheBitmapsOwnNodeAcquits) {
  for (const bool follows : {false, true}) {
    Machine machine;
    BlockNode& target = machine.add_disk("target");
    const std::uint64_t changed = 3 * granularity;
    machine.run(machine.guest->write(changed, Buffers::of_const(machine.data)));
    const auto bitmap = machine.bitmap().shared_from_this();
    bitmap->set_follows(follows);
    DirtyBitmap all(size, granularity);
    all.set_all();
    bitmap->bits().set_all();
    bitmap->suspect(all);
    schema::BlockDirtyBitmapClearSuspected arguments;
    arguments.node = "disk";
    arguments.name = "b";
    arguments.granularity = granularity;
    const std::vector<std::byte> zeroes(granularity);
    for (std::uint64_t at = 0; at < size; at += granularity) {
      schema::GranuleDigest granule;
      granule.offset = at;
      granule.digest = Digest::of(zeroes).to_hex();
      arguments.granules.push_back(std::move(granule));
    }
    machine.world.faults().add(takes_a_second(IoOp::Kind::read, 2));
    const auto clear = [&]() -> Task<> { (void)co_await machine.bitmaps.block_dirty_bitmap_clear_suspected(std::move(arguments)); };
    const Result<> cleared = with_move(machine, target, clear());
    ASSERT_FALSE(cleared.ok());
    EXPECT_EQ(cleared.error().message(),
              "the disk of node 'disk' has moved to another node while bitmap 'b' was compared with it: try again");
    const NodeBitmap& there = follows ? *target.bitmaps().find("b") : *bitmap;
    EXPECT_TRUE(bitmap->bits().next_dirty_area(changed, changed + granularity).has_value());
    EXPECT_TRUE(there.bits().next_dirty_area(changed, changed + granularity).has_value());
  }
}

// What cannot be written again, at one point after the other, stays as it is, and can be at the next attempt.
TEST(BitmapCommands, ADiskThatCannotBeWrittenAgainCanBeLater) {
  std::uint64_t failed = 0, done = 0;
  for (std::uint64_t skip = 0; skip < 200 && done < 3; ++skip) {
    Machine machine;
    machine.run(add_image(machine));
    BlockNode& node = *machine.homes.main().graph.find("image");
    machine.run(only_read(node));
    SimFault fails;
    fails.path = "/image";
    fails.skip = skip;
    machine.world.faults().add(fails);
    const Result<> begun = machine.reactor.run(change(node, false));
    machine.world.faults().clear();
    EXPECT_EQ(node.read_only(), !begun.ok()) << "from operation " << skip << " on";
    EXPECT_EQ(node.tracking() != nullptr, begun.ok()) << "from operation " << skip << " on";
    ++(begun ? done : failed);
    if (!begun) machine.run(change(node, false));
  }
  EXPECT_GE(failed, 5u);
  EXPECT_GE(done, 3u);
}

// A disk that cannot be flushed, or whose marks cannot be stored, at one point after the other: it is written on, and tracked.
TEST(BitmapCommands, ADiskThatCannotBeOnlyReadIsTrackedOn) {
  std::uint64_t failed = 0;
  for (std::uint64_t skip = 0; skip < 60; ++skip) {
    Machine machine;
    machine.run(machine.guest->write(0, Buffers::of_const(machine.data)));
    machine.guest.reset();
    SimFault fails;
    fails.path = "/disk";
    fails.skip = skip;
    machine.world.faults().add(fails);
    BlockNode& node = *machine.homes.main().graph.find("disk");
    const Result<> ended = machine.reactor.run(only_read(node));
    machine.world.faults().clear();
    ASSERT_EQ(node.read_only(), ended.ok()) << "from operation " << skip << " on";
    if (ended) continue;
    ++failed;
    ASSERT_NE(node.tracking(), nullptr) << "from operation " << skip << " on";
    const Permissions all{Permissions::write, Permissions::all};
    machine.guest = *Edge::attach(node, Role::root, all, "a guest");
    machine.run(machine.guest->write(MiB, Buffers::of_const(machine.data)));
    EXPECT_EQ(machine.bitmap().dirty_bytes(), 2 * granularity);
    EXPECT_FALSE(machine.bitmap().inconsistent());
  }
  EXPECT_GE(failed, 2u);
}

}  // namespace
}  // namespace tidemark::test
