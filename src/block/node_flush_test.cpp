// Who hears that a flush has failed: everyone who may have written what it has lost, once.
#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

constexpr Permissions nothing{Permissions::none, Permissions::all};
const std::string lost = "what was written before may be lost: the cache is gone";

// What a format or filter does: its flush is its first child's, too.
class Flushing final : public TestParent {
 public:
  using TestParent::TestParent;
  Task<> flush() override { return children.at(0)->flush(); }
};

class Storage final : public TestDriver {
 public:
  using TestDriver::TestDriver;
  bool lost_by(const Error& failed) const noexcept override { return failed.code() != Errc::disconnected; }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    co_await TestDriver::write(offset, from, flags);
    if (has(flags, WriteFlags::fua)) co_await make_durable();
  }
  Task<> flush() override {
    if (!let_flushes_pass) co_await TestDriver::flush();
    co_await make_durable();
  }
  std::optional<Errc> failure;      // of the next one
  bool let_flushes_pass = false;    // while others are held

 private:
  Task<> make_durable() {
    const std::optional<Errc> failed = std::exchange(failure, std::nullopt);
    if (failed) co_await Error(*failed, "the cache is gone", EIO);
  }
};

class NodeFlush : public BlockTest {
 protected:
  NodeFlush() { storage = &add_storage("storage", false); }

  Storage& add_storage(std::string name, bool fua) {
    TestDriverOptions options;
    options.fua = fua;
    auto driver = std::make_unique<Storage>(reactor, options);
    Storage& added = *driver;
    add(std::move(name), std::move(driver));
    return added;
  }
  // Stands on what is named first, and has what follows as its backing file.
  BlockNode& over(std::string name, std::vector<Child> below) {
    auto driver = std::make_unique<Flushing>(reactor, TestDriverOptions());
    for (const Child& child : below) driver->children.push_back(*Edge::attach(*child.node, child.role, {}, name));
    return add(std::move(name), std::move(driver));
  }
  // Who has written something.
  Edge& writer(BlockNode& node) {
    Edge& user = attach(node);
    write(user);
    return user;
  }
  void write(Edge& user) {
    const auto data = bytes_of(512, 1);
    run(user.write(0, Buffers::of_const(data)));
  }
  void fail_flush(Errc code = Errc::io) { storage->failure = code; }
  bool flushes(Edge& user) { return reactor.run(user.flush()).ok(); }
  std::string told(Edge& user) { return error_of(user.flush()).message(); }

  Storage* storage = nullptr;
};

TEST_F(NodeFlush, EveryUserIsToldOnce) {
  Edge& guest = writer(node("storage"));
  Edge& other = writer(node("storage"));
  fail_flush();
  EXPECT_EQ(told(other), "the cache is gone");
  Edge& late = writer(node("storage"));
  EXPECT_TRUE(flushes(other));
  EXPECT_TRUE(flushes(late));
  EXPECT_EQ(told(guest), lost);
  EXPECT_EQ(storage->count(Call::flush), 4u);
  EXPECT_TRUE(flushes(guest));
  EXPECT_EQ(node("storage").losses(), 1u);
}

TEST_F(NodeFlush, WhatIsDurableIsNotLost) {
  Edge& guest = writer(node("storage"));
  Edge& reader = attach(node("storage"));
  EXPECT_TRUE(flushes(guest));
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  EXPECT_TRUE(flushes(guest) && flushes(reader));
  write(guest);
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  EXPECT_EQ(told(guest), lost);
  EXPECT_EQ(node("storage").losses(), 2u);
}

// It may have come to the storage before or after.
TEST_F(NodeFlush, AWriteUnderWayMayBeLost) {
  Edge& guest = attach(node("storage"));
  const auto data = bytes_of(512, 1);
  storage->hold();
  Background writing = start(guest.write(0, Buffers::of_const(data)));
  Background flushing = start(guest.flush());
  storage->release();
  EXPECT_TRUE(finish(writing).ok());
  EXPECT_TRUE(finish(flushing).ok());
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  EXPECT_EQ(told(guest), lost);
}

// It is answered when who has sent it has been told of the loss already, which may have been its own.
TEST_F(NodeFlush, AWriteThatEndsAfterTheLoss) {
  const auto data = bytes_of(512, 1);
  for (const bool good_before : {false, true}) {
    Edge& guest = attach(node("storage"));
    storage->hold();
    Background writing = start(guest.write(0, Buffers::of_const(data)));
    storage->let_flushes_pass = true;
    if (good_before) {
      EXPECT_TRUE(flushes(guest));
    }
    fail_flush();
    EXPECT_EQ(told(guest), "the cache is gone");
    EXPECT_TRUE(flushes(guest));                 // it has not been answered yet
    storage->release();
    EXPECT_TRUE(finish(writing).ok());
    EXPECT_FALSE(flushes(guest));
    EXPECT_TRUE(flushes(guest));
  }
}

// What has failed need not be told of twice; what was to be durable is not.
TEST_F(NodeFlush, AWriteThatFailsAfterTheLoss) {
  const auto data = bytes_of(512, 1);
  for (const bool fua : {false, true}) {
    Edge& guest = attach(node("storage"));
    storage->hold();
    Background writing = start(guest.write(0, Buffers::of_const(data), fua ? WriteFlags::fua : WriteFlags::none));
    storage->let_flushes_pass = true;
    fail_flush();
    EXPECT_EQ(told(guest), "the cache is gone");
    if (!fua) storage->fail_next(Error(Errc::io, "bad sector"));
    storage->release();
    EXPECT_EQ(finish(writing).error().message(), fua ? "node 'storage': a flush has failed" : "bad sector");
    EXPECT_TRUE(flushes(guest));
  }
}

// They begin with what is lost then.
TEST_F(NodeFlush, BitmapsThatHaveDroppedSomething) {
  BlockNode& format = over("format", {{&node("storage"), Role::file}});
  Edge& guest = attach(format);
  const auto add_bitmap = [&](std::string name) { return *format.bitmaps().add(std::move(name), format.size(), 4096); };
  NodeBitmap& plain = *add_bitmap("plain");
  NodeBitmap& kept = *add_bitmap("kept");
  NodeBitmap& disabled = *add_bitmap("disabled");
  kept.set_persistent(true);
  disabled.set_enabled(false);
  write(guest);
  for (NodeBitmap* bitmap : {&plain, &kept}) EXPECT_EQ(bitmap->clear().dirty_bytes(), 4096u);
  EXPECT_TRUE(flushes(guest));
  EXPECT_EQ(plain.dirty_bytes() + kept.dirty_bytes(), 0u);
  write(guest);
  fail_flush();
  EXPECT_FALSE(flushes(guest));
  EXPECT_EQ(plain.dirty_bytes(), format.size());
  EXPECT_EQ(kept.dirty_bytes(), 4096u);
  EXPECT_EQ(disabled.dirty_bytes(), 0u);
  kept.freeze();
  fail_flush();
  write(guest);
  EXPECT_FALSE(flushes(guest));
  kept.abdicate();
  EXPECT_EQ(kept.dirty_bytes(), 4096u);
}

TEST_F(NodeFlush, ThroughWhatStandsOnIt) {
  BlockNode& format = over("format", {{&node("storage"), Role::file}});
  BlockNode& filter = over("filter", {{&format, Role::filtered}});
  Edge& above = writer(filter);
  Edge& beside = writer(format);
  Edge& below = attach(node("storage"), nothing);
  fail_flush();
  EXPECT_EQ(told(beside), "the cache is gone");
  EXPECT_EQ(told(above), lost);
  EXPECT_TRUE(flushes(below));
  EXPECT_TRUE(flushes(beside) && flushes(above));
  EXPECT_EQ(filter.losses(), 1u);
}

// What was written to a disk is not in what its layers stand on, nor where what it loses is kept.
TEST_F(NodeFlush, ABackingFileIsNoneOfIts) {
  add_disk("own");
  BlockNode& overlay = over("overlay", {{&node("own"), Role::file}, {&node("storage"), Role::backing}});
  BlockNode& filter = over("filter", {{&overlay, Role::filtered}, {&node("storage"), Role::target}});
  Edge& guest = writer(filter);
  Edge& target = *static_cast<Flushing&>(filter.driver()).children.at(1);
  Edge& job = attach(node("storage"), nothing);
  write(target);
  fail_flush();
  EXPECT_EQ(told(job), "the cache is gone");
  EXPECT_TRUE(flushes(guest));
  EXPECT_EQ(told(target), lost);
  EXPECT_TRUE(flushes(target));
  EXPECT_EQ(filter.losses(), 0u);
}

TEST_F(NodeFlush, AWriteThatIsToBeDurable) {
  const auto data = bytes_of(512, 1);
  for (const bool fua : {false, true}) {
    const std::string name = fua ? "fua" : "none";
    storage = &add_storage(name, fua);
    Edge& guest = writer(node(name));
    Edge& other = attach(node(name));
    fail_flush();
    EXPECT_EQ(error_of(other.write(0, Buffers::of_const(data), WriteFlags::fua)).message(), "the cache is gone");
    EXPECT_EQ(told(guest), lost);
    EXPECT_TRUE(flushes(guest));
    if (!fua) continue;
    // One that was refused has dropped nothing.
    write(guest);
    fail_flush(Errc::no_space);
    EXPECT_FALSE(reactor.run(other.write(0, Buffers::of_const(data), WriteFlags::fua)).ok());
    EXPECT_TRUE(flushes(guest));
  }
}

TEST_F(NodeFlush, SideBySide) {
  Edge& guest = writer(node("storage"));
  Edge& other = writer(node("storage"));
  storage->hold();
  fail_flush();
  Background first = start(guest.flush());
  Background second = start(guest.flush());
  Background third = start(other.flush());
  storage->release();
  const Result<> one = finish(first), two = finish(second), three = finish(third);
  EXPECT_FALSE(one.ok());
  EXPECT_FALSE(two.ok());
  EXPECT_FALSE(three.ok());
  EXPECT_TRUE(flushes(guest) && flushes(other));
}

TEST_F(NodeFlush, SeveralWhoShareAnEdge) {
  Edge& shared = writer(node("storage"));
  std::uint64_t one = shared.losses(), two = one;
  fail_flush();
  EXPECT_FALSE(reactor.run(shared.flush(one)).ok());
  std::uint64_t late = shared.losses();
  EXPECT_TRUE(reactor.run(shared.flush(one)).ok());
  EXPECT_TRUE(reactor.run(shared.flush(late)).ok());
  EXPECT_EQ(error_of(shared.flush(two)).message(), lost);
  EXPECT_TRUE(reactor.run(shared.flush(two)).ok());
}

TEST_F(NodeFlush, WhatTheStorageKeepsIsNotLost) {
  Edge& guest = writer(node("storage"));
  Edge& other = writer(node("storage"));
  for (const auto& [code, keeps] : {std::pair(Errc::disconnected, true), std::pair(Errc::timed_out, false)}) {
    write(guest);
    fail_flush(code);
    EXPECT_FALSE(flushes(other));
    EXPECT_EQ(flushes(guest), keeps);
  }
}

// The node that it uses by then has lost nothing itself.
TEST_F(NodeFlush, AFilterComesInBetween) {
  Edge& guest = writer(node("storage"));
  fail_flush();
  EXPECT_FALSE(reactor.run(node("storage").make_durable()).ok());
  BlockNode& filter = over("filter", {{&node("storage"), Role::filtered}});
  const auto insert = [&]() -> Task<> {
    const auto drained = co_await graph.drain(node("storage"));
    co_await unwrap(graph.replace(node("storage"), filter));
  };
  run(insert());
  EXPECT_EQ(&guest.node(), &filter);
  EXPECT_EQ(told(guest), lost);
  EXPECT_TRUE(flushes(guest));
}

TEST_F(NodeFlush, NoneAreDoneWhereNoneAreWanted) {
  NodeOptions options;
  options.cache_no_flush = true;
  TestDriver& fast = add_disk("fast", {}, options);
  Edge& guest = writer(node("fast"));
  EXPECT_TRUE(flushes(guest));
  run(node("fast").make_durable());
  EXPECT_EQ(fast.count(Call::flush), 0u);
}

}  // namespace
}  // namespace tidemark::test
