// Streaming: the disk stays as it is while guests write to it, whatever fails and whenever it is cancelled, and stands on
// what it is to stand on in the end.
#include "tests/support/test_chains.hpp"

namespace tidemark::test {
namespace {

// A chain of four, of various sizes; the longest is below.
struct Chain {
  BlockNode *base, *a, *b, *disk;
};

class StreamChainTest : public ChainsTest {
 protected:
  Chain chain() {
    const auto size = [&] { return MiB + disks->random.below(400) * 512; };
    Chain c{};
    c.base = &layer("base", size());
    c.a = &layer("a", size(), c.base, 8192);
    c.b = &layer("b", size(), c.a);
    c.disk = &layer("disk", size(), c.b, disks->random.below(2) == 0 ? 4096 : 64 * KiB);
    for (BlockNode* node : {c.base, c.a, c.b, c.disk}) scribble(*node);
    return c;
  }
};

TEST_F(StreamChainTest, TheDiskStaysWhileAGuestWrites) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    restart(seed);
    const Chain c = chain();
    BlockNode* const bottom = seed % 3 == 0 ? c.a : c.b;       // without the base, or with both
    BlockNode* const below = bottom == c.a ? c.base : c.a;
    Edge& edge = disks->attach(*c.disk);
    Guest guest(*disks, edge, content(*c.disk));
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        co_await stream("j", *c.disk, *bottom);
        group.spawn(guest.work(300, 6));
        co_await end_of("j");
        EXPECT_EQ(c.disk->backing(), below);
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_EQ(guest.failed(), 0u);
    EXPECT_EQ(&edge.node(), c.disk);
    EXPECT_EQ(backing_name_in(*c.disk), "below.qcow2");
    EXPECT_EQ(content(*c.disk) == guest.content, true) << "seed " << seed;
  }
}

// A guest's read hangs, in a base that does not answer: neither the others nor the command wait for it for ever.
TEST_F(StreamChainTest, BesideARequestThatHangs) {
  for (const bool at_the_end : {false, true}) {
    restart(31);
    BlockNode& base = layer("base", MiB);
    BlockNode& middle = layer("middle", MiB, &base);
    BlockNode& disk = layer("disk", MiB, &middle);
    const Content data(64 * KiB, std::byte{3});
    disks->run(Disks::write_at(base, 0, data));
    disks->run(Disks::write_at(disk, 512 * KiB, data));
    const std::string name = backing_name_in(disk);
    Edge& edge = disks->attach(disk);
    Reactor& reactor = disks->process.reactor();
    run([&]() -> Task<> {
      const auto body = [&](TaskGroup& group) -> Task<> {
        const auto read = [&](std::uint64_t at) -> Task<> {
          Content into(512);
          co_await edge.read(at, Buffers(MutableBytes(into)));
        };
        StreamOptions options;
        options.job.id = "j";
        options.job.auto_finalize = false;
        options.disk = &disk;
        options.bottom = &middle;
        options.backing_file = "below.qcow2";
        if (at_the_end) co_await begin(options);
        if (at_the_end) co_await reach("j", JobStatus::pending);
        FaultRule hangs;
        hangs.op = FaultOp::read;
        hangs.latency_ns = 600'000'000'000;
        disks->set_faults("base", {hangs});
        group.spawn(read(0));
        co_await pass(1);
        const Instant asked = reactor.now();
        Result<> done;
        if (at_the_end) {
          group.spawn(jobs->finalize("j"));
          co_await pass(31'000);
        } else {
          const Result<ManagedJob*> refused = co_await begin(options).result();
          EXPECT_EQ(refused.ok() ? "" : refused.error().message(),
                    "Node 'disk' cannot be brought to rest: requests have been under way for 30 s");
          EXPECT_LT(reactor.now() - asked, std::chrono::seconds(31));
        }
        co_await read(512 * KiB);
        EXPECT_LT(reactor.now() - asked, std::chrono::seconds(40));
        if (at_the_end) {
          EXPECT_EQ(backing_name_in(disk), name);
          EXPECT_EQ(disk.backing(), &middle);
        }
        co_await group.join();
      };
      co_await with_group(reactor, body);
    });
    EXPECT_EQ(&edge.node(), &disk);
  }
}

TEST_F(StreamChainTest, ToNothingAtAll) {
  const Chain c = chain();
  const Content wanted = content(*c.disk);
  NodeBitmap& bitmap = **c.disk->bitmaps().add("b", c.disk->size(), 4096);
  run([&]() -> Task<> {
    StreamOptions options;
    options.job.id = "j";
    options.disk = c.disk;
    options.bottom = c.base;
    co_await begin(options);
    co_await end_of("j");
    const std::string size = std::to_string(c.disk->size());
    EXPECT_TRUE(events.take().ends_with("j completed " + size + "/" + size + "\nj concluded\nj null\n"));
  });
  EXPECT_EQ(c.disk->backing(), nullptr);
  EXPECT_EQ(backing_name_in(*c.disk), "");
  EXPECT_EQ(bitmap.bits().dirty_bytes(), 0u);
  EXPECT_EQ(content(*c.disk) == wanted, true);
  EXPECT_EQ(disks->graph.nodes().size(), 12u);               // the filter is gone
}

TEST_F(StreamChainTest, IntoAnImageBelowTheDisk) {
  const Chain c = chain();
  Edge& edge = disks->attach(*c.disk);
  Guest guest(*disks, edge, content(*c.disk));
  const Content below = content(*c.b);
  run([&]() -> Task<> {
    const auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(guest.work(200, 4));
      co_await stream("j", *c.b, *c.a);
      co_await end_of("j");
      co_await group.join();
    };
    co_await with_group(disks->process.reactor(), both);
  });
  EXPECT_EQ(c.b->backing(), c.base);
  EXPECT_EQ(c.disk->backing(), c.b);
  EXPECT_EQ(content(*c.b) == below, true);
  EXPECT_EQ(content(*c.disk) == guest.content, true);
}

TEST_F(StreamChainTest, CancelledAtAnyMoment) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    restart(seed);
    const Chain c = chain();
    disks->set_faults("b", {slow()});
    Guest guest(*disks, disks->attach(*c.disk), content(*c.disk));
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(100, 4));
        co_await stream("j", *c.disk, *c.a);
        co_await disks->process.reactor().sleep(Duration(disks->random.below(8'000'000)));
        if (exists("j")) (void)jobs->cancel(job("j"), false);
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_TRUE(c.disk->backing() == c.b || c.disk->backing() == c.base);
    EXPECT_EQ(content(*c.disk) == guest.content, true) << "seed " << seed;
    EXPECT_EQ(disks->graph.nodes().size(), 12u);
  }
}

TEST_F(StreamChainTest, ErrorsByPolicy) {
  for (const OnError policy : {OnError::report, OnError::ignore, OnError::stop}) {
    restart(7);
    const Chain c = chain();
    const Content wanted = content(*c.disk);
    disks->set_faults("a", {failing(FaultOp::read, 3, 2)});
    run([&]() -> Task<> {
      StreamOptions options;
      options.job.id = "j";
      options.disk = c.disk;
      options.bottom = c.a;
      options.backing_file = "base.qcow2";
      options.on_error = policy;
      options.job.auto_dismiss = false;
      co_await begin(options);
      if (policy == OnError::stop) {
        while (job("j").status() != JobStatus::concluded) {
          if (job("j").user_paused()) (void)jobs->resume(job("j"));
          co_await pass(1);
        }
      }
      co_await end_of("j");
      const JobInfo info = job("j").info();
      EXPECT_EQ(info.error.has_value(), policy != OnError::stop);
      (void)jobs->dismiss(job("j"));
      disks->set_faults("a", {});
    });
    EXPECT_NE(events.take().find("error read"), std::string::npos);
    EXPECT_EQ(c.disk->backing(), policy == OnError::stop ? c.base : c.b);
    EXPECT_EQ(content(*c.disk) == wanted, true);
  }
}

// The header cannot be written: the chain stays as it is.
TEST_F(StreamChainTest, AHeaderThatCannotBeWritten) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    restart(seed);
    const Chain c = chain();
    const Content wanted = content(*c.disk);
    run([&]() -> Task<> {
      StreamOptions options;
      options.job.id = "j";
      options.job.auto_finalize = false;
      options.disk = c.disk;
      options.bottom = c.a;
      options.backing_file = "base.qcow2";
      co_await begin(options);
      co_await reach("j", JobStatus::pending);
      disks->set_faults("disk", {failing(FaultOp::write, seed - 1, 1)});
      (void)co_await jobs->finalize("j").result();
      co_await end_of("j");
      disks->set_faults("disk", {});
    });
    const bool failed = events.take().find("Input/output error") != std::string::npos;
    EXPECT_EQ(c.disk->backing(), failed ? c.b : c.base);
    EXPECT_EQ(backing_name_in(*c.disk), failed ? "b.qcow2" : "base.qcow2");
    EXPECT_EQ(content(*c.disk) == wanted, true);
  }
}

TEST_F(StreamChainTest, NobodyElseWritesToTheImageMeanwhile) {
  const Chain c = chain();
  run([&]() -> Task<> {
    StreamOptions options;
    options.job.id = "j";
    options.job.speed = 4096;
    options.disk = c.disk;
    options.bottom = c.a;
    options.backing_file = "base.qcow2";
    co_await begin(options);
    using P = Permissions;
    EXPECT_FALSE(Edge::attach(*c.disk, Role::root, {P::write, P::all}, "another").ok());
    EXPECT_FALSE(Edge::attach(*c.b, Role::root, {P::write, P::all}, "another").ok());
    EXPECT_TRUE(job("j").job().uses(*c.a));
    EXPECT_FALSE(job("j").job().uses(*c.base));
  });
}

// A copy-on-read filter by hand: guests read and write through it, and what was read needs nothing below any more.
TEST_F(StreamChainTest, WhatIsReadIsCopied) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    restart(seed);
    const Chain c = chain();
    CopyOnReadOptions options;
    options.file = c.disk;
    if (seed % 2 == 0) options.bottom = c.b;
    BlockNode& filter = disks->add("cor", *open_copy_on_read(options));
    Edge& edge = disks->attach(filter);
    EXPECT_FALSE(Edge::attach(*c.disk, Role::root, {Permissions::write, Permissions::all}, "another").ok());
    Guest guest(*disks, edge, content(*c.disk));
    run([&]() -> Task<> {
      const auto reader = [&](std::uint64_t reads) -> Task<> {
        for (std::uint64_t i = 0; i < reads; ++i) {
          Content data((1 + disks->random.below(64)) * 512);
          const std::uint64_t at = disks->random.below((filter.size() - data.size()) / 512) * 512;
          co_await edge.read(at, Buffers(MutableBytes(data)));
        }
      };
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(200, 4));
        for (int i = 0; i < 4; ++i) group.spawn(reader(60));
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
      Content all(filter.size());
      co_await edge.read(0, Buffers(MutableBytes(all)));
      EXPECT_EQ(all == guest.content, true) << "seed " << seed;
      const auto drained = co_await disks->graph.drain(*c.disk);
      EXPECT_TRUE(disks->graph.set_backing(*c.disk, seed % 2 == 0 ? c.a : nullptr).ok());
    });
    EXPECT_EQ(content(*c.disk) == guest.content, true) << "seed " << seed;
  }
}

// What cannot be copied can be read all the same.
TEST_F(StreamChainTest, AFullDiskIsRead) {
  const Chain c = chain();
  const Content wanted = content(*c.disk);
  CopyOnReadOptions options;
  options.file = c.disk;
  BlockNode& filter = disks->add("cor", *open_copy_on_read(options));
  Edge& edge = disks->attach(filter);
  disks->set_faults("disk", {failing(FaultOp::write, 0, 0)});
  Content all(filter.size());
  disks->run(edge.read(0, Buffers(MutableBytes(all))));
  EXPECT_EQ(all == wanted, true);
  disks->set_faults("disk", {});
}

}  // namespace
}  // namespace tidemark::test
