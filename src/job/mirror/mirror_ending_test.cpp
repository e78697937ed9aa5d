// The ends of mirrors: whom they hold up, and what they hold and let go of meanwhile.
#include "tests/support/test_mirrors.hpp"

namespace tidemark::test {
namespace {

using MirrorEndingTest = MirrorTest;

// A filter whose writes wait while it is shut.
class Shut final : public Turnstile {
 public:
  Shut(Reactor& reactor, std::unique_ptr<Edge> file) : Turnstile(reactor, std::move(file)), open_(reactor) {}
  std::string_view name() const noexcept override { return "shut"; }
  std::uint64_t waiting() const noexcept { return waiting_; }
  void open() noexcept { open_.set(); }

 private:
  Task<> pass(RequestKind kind, Range) override {
    if (kind != RequestKind::write) co_return;
    ++waiting_;
    co_await open_.wait();
    --waiting_;
  }
  Event open_;
  std::uint64_t waiting_ = 0;
};

// Guests are held for a part of the time, however long the target takes.
TEST_F(MirrorEndingTest, TheEndOfAMirrorToASlowTarget) {
  make(185, 0);
  Edge& writer = disks->attach(*source);
  Reactor& reactor = disks->process.reactor();
  run([&]() -> Task<> {
    MirrorOptions options = mirror();
    options.buf_size = 64 * KiB;
    co_await start(options);
    co_await reach("j", JobStatus::ready);
    FaultRule slow;
    slow.op = FaultOp::write;
    slow.latency_ns = 300 * ms;
    disks->set_faults("t", {slow});
    const Content data(512, std::byte{1});
    for (std::uint64_t at = 0; at < 40; ++at) co_await writer.write(at * 64 * KiB, Buffers::of_const(data));
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    const Instant began = reactor.now();
    Duration held{};
    for (std::uint64_t i = 0; reactor.now() - began < std::chrono::seconds(10); ++i) {
      const Instant asked = reactor.now();
      co_await writer.write(i % 40 * 64 * KiB, Buffers::of_const(data));
      if (reactor.now() - asked > std::chrono::milliseconds(100)) held += reactor.now() - asked;
      co_await pass(5);
    }
    EXPECT_LT(held, std::chrono::seconds(4));
    EXPECT_TRUE(exists("j"));
    disks->set_faults("t", {});
    co_await end_of("j");
    EXPECT_EQ(&writer.node(), target);
  });
}

// A flush of the guest's fails: what the source reads as from there on is what the target is in the end.
TEST_F(MirrorEndingTest, WhatTheSourceHasLostIsCopiedAgain) {
  for (const CopyMode mode : {CopyMode::background, CopyMode::write_blocking}) {
    for (const bool late : {false, true}) {
      make(186, 0);
      Edge& writer = disks->attach(*source);
      run([&]() -> Task<> {
        MirrorOptions options = mirror(SyncMode::full, mode);
        options.job.auto_finalize = !late;       // it has done its work when that comes
        co_await start(options);
        co_await reach("j", JobStatus::ready);
        const Content data(100 * KiB, std::byte{1}), before(100 * KiB, std::byte{2});
        co_await writer.write(1 * MiB, Buffers::of_const(data));
        if (late) {
          EXPECT_TRUE(jobs->complete(job("j")).ok());
          co_await reach("j", JobStatus::pending);
        }
        co_await pass(200);
        FaultRule fails;
        fails.op = FaultOp::flush;
        fails.os_errno = EIO;
        fails.count = 1;
        disks->set_faults("s", {fails});
        const Result<> flushed = co_await writer.flush().result();
        EXPECT_FALSE(flushed.ok());
        co_await Disks::write_at(disks->node("s"), 1 * MiB, before);
        if (late) {
          co_await jobs->finalize("j");
        } else {
          EXPECT_TRUE(jobs->complete(job("j")).ok());
        }
        co_await end_of("j");
        EXPECT_EQ(&writer.node(), target);
        const bool same = co_await equal();
        EXPECT_TRUE(same) << late;
      });
    }
  }
}

// Guests wrote while it was pending, and then the target is lost: the command does not wait for it for ever.
TEST_F(MirrorEndingTest, ATargetThatHangsWhenItIsFinalized) {
  make(198, 0);
  Hanging& hanging = disks->add_hanging("t");
  target = &disks->node("hanging-t");
  Edge& writer = disks->attach(*source);
  Reactor& reactor = disks->process.reactor();
  run([&]() -> Task<> {
    MirrorOptions options = mirror();
    options.job.auto_finalize = false;
    options.job.auto_dismiss = false;
    co_await start(options);
    co_await reach("j", JobStatus::ready);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await reach("j", JobStatus::pending);
    const Content data(512, std::byte{1});
    co_await writer.write(0, Buffers::of_const(data));
    hanging.hang(true);
    const Instant asked = reactor.now();
    const auto body = [&](TaskGroup& group) -> Task<> {
      group.spawn(jobs->finalize("j"));
      while (!hanging.waiting()) co_await pass(1);
      for (int i = 0; i < 20; ++i) {
        const Instant before = reactor.now();
        co_await writer.write(64 * KiB, Buffers::of_const(data));
        EXPECT_LE(reactor.now() - before, std::chrono::seconds(1));
        co_await pass(500);
      }
      const bool ended = co_await ends_within("j", std::chrono::seconds(40));
      EXPECT_TRUE(ended);
      if (!ended) co_await hanging.cancel_in_flight();
    };
    co_await with_group(reactor, body);
    EXPECT_LT(reactor.now() - asked, std::chrono::seconds(40));
    EXPECT_EQ(job("j").info().error.value_or(""), "the target does not keep up with the disk: it stays as it is");
    EXPECT_EQ(&writer.node(), source);
    hanging.hang(false);
  });
}

// What a bitmap needs at the target takes its time: guests do not wait for that.
TEST_F(MirrorEndingTest, BitmapsAreMadeRoomForWhileGuestsGoOn) {
  struct Access final : ChainAccess {
    Task<> make_writable(BlockNode&) override { co_return; }
    Task<> make_read_only(BlockNode&) override { co_return; }
    Task<> uncover(BlockNode&, Range) override { co_return; }
    Result<> check_size_change(const BlockNode&) override { return {}; }
    Task<> prepare_bitmaps(BlockNode& from, BlockNode&) override {
      log += from.quiesced() ? "prepared at rest " : "prepared ";
      co_return;
    }
    Task<> bring_bitmaps(BlockNode& from, BlockNode&) override {
      log += from.quiesced() ? "brought" : "brought too early";
      co_return;
    }
    std::string log;
  } access;
  for (const bool auto_finalize : {true, false}) {
    make(199);
    access.log.clear();
    run([&]() -> Task<> {
      MirrorOptions options = mirror();
      options.access = &access;
      options.job.auto_finalize = auto_finalize;
      co_await start(options);
      co_await reach("j", JobStatus::ready);
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      if (!auto_finalize) co_await reach("j", JobStatus::pending);
      if (!auto_finalize) co_await jobs->finalize("j");
      co_await end_of("j");
    });
    EXPECT_EQ(access.log, "prepared brought");
  }
}

// Paused and resumed in the very moment in which the last of what was under way ends.
TEST_F(MirrorEndingTest, ItIsNotReadyBeforeAllIsCopied) {
  for (int turns = 0; turns < 40; ++turns) {
    make(200, 0);
    auto edge = Edge::attach(disks->node("fault-t"), Role::filtered, {Permissions::none, Permissions::all}, "shut");
    auto driver = std::make_unique<Shut>(disks->process.reactor(), *std::move(edge));
    Shut& shut = *driver;
    target = &disks->add("shut", std::move(driver));
    run([&]() -> Task<> {
      MirrorOptions options = mirror();
      options.buf_size = 64 * KiB;
      co_await start(options);
      while (!shut.waiting()) co_await pass(1);
      (void)jobs->pause(job("j"));
      shut.open();
      for (int i = 0; i < turns; ++i) co_await disks->process.reactor().yield();
      (void)jobs->resume(job("j"));
      co_await reach("j", JobStatus::ready);
    });
    const std::string told = events.take();
    const std::string all = std::to_string(disk_size);
    EXPECT_NE(told.find("j ready " + all + "/" + all + "\n"), std::string::npos) << turns << "\n" << told;
  }
}

// Who forbids writing to the source comes to it in the very moment in which the mirror lets go.
TEST_F(MirrorEndingTest, NobodyMindsTheGuestWhileItEnds) {
  for (std::uint64_t seed = 190; seed < 196; ++seed) {
    make(seed);
    using P = Permissions;
    run_with_guest([&]() -> Task<> {
      co_await start(mirror());
      co_await pass(disks->random.below(10));
      (void)jobs->cancel(job("j"), true);
      while (exists("j")) {
        EXPECT_FALSE(Edge::attach(*source, Role::root, {P::none, P::all & ~P::write}, "who minds").ok());
        co_await disks->process.reactor().yield();
      }
    });
    EXPECT_TRUE(of(*source) == guest->content) << "seed " << seed;
  }
}

// What a filter showed until the pivot is closed, when nobody else has it.
TEST_F(MirrorEndingTest, TheNodeThatIsReplacedBelowAFilterIsLetGoOf) {
  restart(197);
  NodeOptions plain;
  plain.name = "replaced";
  BlockNode& memory = *disks->run(disks->graph.add(plain, *open_memory({MiB})));
  source = &disks->add("above", *open_fault({&memory, {}, 1}));
  target = &disks->disk("t", MiB);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    MirrorOptions options = mirror();
    options.replaces = "replaced";
    co_await start(options);
    co_await reach("j", JobStatus::ready);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
  });
  EXPECT_EQ(&writer.node(), source);
  EXPECT_EQ(source->filtered(), target);
  EXPECT_EQ(disks->graph.find("replaced"), nullptr);
}

}  // namespace
}  // namespace tidemark::test
