// The NBD client against servers that go away, come back, or break the protocol.
#include "storage/test_nbd_server.hpp"

namespace tidemark::test {
namespace {

TEST_F(NbdClientTest, ReadsWhatComesInPiecesOutOfOrder) {
  serve([](const nbd::Request& request) -> std::optional<Message> {
    Message out = data_chunk(request.cookie, 1024, 3072, false);
    append(out, data_chunk(request.cookie, 0, 512, false));
    std::byte hole[nbd::offset_hole_size];
    nbd::encode_offset_hole(hole, {512, 512});
    append(out, chunk({nbd::chunk_flag::done, nbd::Chunk::offset_hole, request.cookie, 0, 0}, hole));
    return out;
  });
  ASSERT_TRUE(open().ok());
  memory.assign(4096, std::byte{1});
  ASSERT_TRUE(read().ok());
  EXPECT_EQ(memory[0], std::byte{7});
  EXPECT_TRUE(is_zero(Bytes(memory).subspan(512, 512)));
  EXPECT_EQ(memory[4095], std::byte{7});
}

TEST_F(NbdClientTest, TellsTheServersError) {
  serve([](const nbd::Request& request) -> std::optional<Message> {
    return error_chunk(request.cookie, nbd::Status::no_space, "full\nup");
  });
  ASSERT_TRUE(open().ok());
  const Result<> failed = process.run(disk->write(512, Buffers(memory), WriteFlags::none));
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Errc::no_space);
  EXPECT_EQ(failed.error().message(),
            "NBD server '/nbd.sock': write of 4096 bytes at 512: full?up: No space left on device");
}

TEST_F(NbdClientTest, RefusesAReplyToNoRequest) {
  expect_violation([](const nbd::Request& r) { return done(r.cookie + 1); }, "reply to no request");
}
TEST_F(NbdClientTest, RefusesDataOutsideOfTheRequest) {
  expect_violation([](const nbd::Request& r) { return data_chunk(r.cookie, 1, 4096); },
                   "outside of what was asked for");
}
TEST_F(NbdClientTest, RefusesDataAtAnImpossiblePlace) {
  expect_violation([](const nbd::Request& r) { return data_chunk(r.cookie, ~0ull - 10, 4096); },
                   "outside of what was asked for");
}
TEST_F(NbdClientTest, RefusesDataTwice) {
  expect_violation(
      [](const nbd::Request& r) {
        Message out = data_chunk(r.cookie, 0, 1024, false);
        append(out, data_chunk(r.cookie, 512, 512));
        return out;
      },
      "data sent twice");
}
TEST_F(NbdClientTest, RefusesAReadWithoutItsData) {
  expect_violation([](const nbd::Request& r) { return data_chunk(r.cookie, 0, 512); },
                   "without all of its data");
}
TEST_F(NbdClientTest, RefusesAnOversizeChunk) {
  expect_violation(
      [](const nbd::Request& r) {
        Message out = chunk({nbd::chunk_flag::done, nbd::Chunk::error, r.cookie, 0, 0});
        store_be(out.data() + 16, std::uint32_t{0xfffffff0});
        return out;
      },
      "chunk too long");
}
TEST_F(NbdClientTest, RefusesWrongMagic) {
  expect_violation([](const nbd::Request&) { return Message(64, std::byte{0x41}); },
                   "wrong reply magic");
}
TEST_F(NbdClientTest, RefusesASimpleReplyWithData) {
  expect_violation(
      [](const nbd::Request& r) {
        Message out(nbd::simple_reply_size);
        nbd::encode_simple_reply(out.data(), nbd::Status::ok, r.cookie);
        return out;
      },
      "simple reply with a payload");
}

TEST_F(NbdClientTest, RefusesWhatIsNoServer) {
  server.greeting.assign(nbd::greeting_size, std::byte{'x'});
  serve(well);
  const Result<> opened = open();
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().message(), "NBD server '/nbd.sock': server greeting: not an NBD server");
}

TEST_F(NbdClientTest, DoesNotWaitForeverForAGreeting) {
  server.greeting.assign(1, std::byte{0x4e});
  serve(well);
  const Instant before = world.now();
  EXPECT_EQ(open().error().code(), Errc::timed_out);
  EXPECT_LE(world.now() - before, std::chrono::seconds(31));
}

TEST_F(NbdClientTest, WillNotWriteToAReadOnlyExport) {
  server.flags |= nbd::export_flag::read_only;
  serve(well);
  EXPECT_EQ(open().error().code(), Errc::permission);
}

TEST_F(NbdClientTest, WithoutADelayFailsAtOnceAndReconnects) {
  bool broken = false;
  serve([&](const nbd::Request& request) { return std::exchange(broken, false) ? std::nullopt : well(request); });
  ASSERT_TRUE(open().ok());
  EXPECT_TRUE(read().ok());
  broken = true;
  const Result<> failed = read();
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Errc::disconnected);
  EXPECT_EQ(failed.error().to_errno(), EIO);
  (void)process.run(process.reactor().sleep(std::chrono::seconds(2)));
  EXPECT_TRUE(read().ok());
  EXPECT_EQ(server.connections, 2u);
}

TEST_F(NbdClientTest, SendsAgainWhatWasNotAnswered) {
  unsigned writes = 0;
  serve([&](const nbd::Request& request) { return ++writes <= 2 ? std::nullopt : well(request); });
  ASSERT_TRUE(open(10).ok());
  EXPECT_TRUE(process.run(disk->write(0, Buffers(memory), WriteFlags::none)).ok());
  EXPECT_EQ(writes, 3u);
}

TEST_F(NbdClientTest, WaitsNoLongerThanTheDelay) {
  serve(well);
  ASSERT_TRUE(open(10).ok());
  server.stop();
  serving = false;
  Instant before = world.now();
  EXPECT_EQ(read().error().code(), Errc::disconnected);
  EXPECT_GE(world.now() - before, std::chrono::seconds(9));
  EXPECT_LE(world.now() - before, std::chrono::seconds(11));
  before = world.now();
  EXPECT_FALSE(read().ok());                                 // patience is over
  EXPECT_LE(world.now() - before, std::chrono::milliseconds(1));
  serve(well);
  (void)process.run(process.reactor().sleep(std::chrono::seconds(20)));
  EXPECT_TRUE(read().ok());
}

TEST_F(NbdClientTest, AServerThatAlwaysBreaksOffIsGivenUp) {
  serve([](const nbd::Request&) { return std::optional<Message>(); });
  ASSERT_TRUE(open(10).ok());
  const Instant before = world.now();
  EXPECT_FALSE(read().ok());
  EXPECT_LE(world.now() - before, std::chrono::seconds(30));
  EXPECT_LE(server.connections, 20u);
}

TEST_F(NbdClientTest, DoesNotGoOnWithAShrunkenExport) {
  serve([](const nbd::Request&) { return std::optional<Message>(); });
  ASSERT_TRUE(open(5).ok());
  server.size = disk_size / 2;
  const Result<> failed = read();
  ASSERT_FALSE(failed.ok());
  EXPECT_NE(failed.error().message().find("not what it was"), std::string::npos);
}

// What counts is what requests are made of.
TEST_F(NbdClientTest, GoesOnWithOtherWordsForTheSameSizes) {
  using Sizes = std::optional<nbd::BlockSizes>;
  const Sizes any, large = nbd::BlockSizes{1, 4096, ~std::uint32_t{0}}, ours = nbd::BlockSizes{1, 4096, 32 * MiB};
  const Sizes sector = nbd::BlockSizes{512, 4096, 32 * MiB}, page = nbd::BlockSizes{4096, 4096, 32 * MiB};
  const Sizes small = nbd::BlockSizes{1, 4096, 1 * MiB};
  const auto changed = [&](Sizes before, Sizes after) {
    bool broken = true;
    server.sizes = before;
    serve([&broken](const nbd::Request& request) { return std::exchange(broken, false) ? std::nullopt : well(request); });
    EXPECT_TRUE(open(5).ok());
    server.sizes = after;
    server.size = disk_size;
    const bool same = read().ok();
    EXPECT_TRUE(process.run(disk->close()).ok());
    disk.reset();
    server.stop();
    serving = false;
    return same;
  };
  EXPECT_TRUE(changed(large, ours));
  EXPECT_TRUE(changed(any, sector));
  EXPECT_TRUE(changed(page, sector));
  EXPECT_FALSE(changed(ours, small));
  EXPECT_FALSE(changed(any, page));
  EXPECT_FALSE(changed(ours, sector));
  server.size = disk_size - 100;
  EXPECT_FALSE(changed(any, sector));                        // its end is within one
}

// Buffers are made for what a server likes, not of any size that it says.
TEST_F(NbdClientTest, WhatAServerLikesIsTakenWithinReason) {
  const auto liked = [&](std::uint32_t minimum, std::uint32_t preferred) {
    server.sizes = nbd::BlockSizes{minimum, preferred, ~std::uint32_t{0}};
    serve(well);
    EXPECT_TRUE(open().ok());
    const std::uint64_t taken = disk->limits().opt_transfer;
    EXPECT_TRUE(process.run(disk->close()).ok());
    disk.reset();
    server.stop();
    serving = false;
    return taken;
  };
  EXPECT_EQ(liked(1, 4096), 4096u);
  EXPECT_EQ(liked(1, 2 * MiB), 2 * MiB);
  EXPECT_EQ(liked(1, 1u << 31), 2 * MiB);
  EXPECT_EQ(liked(64 * KiB, 1u << 31), 2 * MiB);
}

TEST_F(NbdClientTest, TriesToOpenUntilTheTimeout) {
  const Instant before = world.now();
  EXPECT_FALSE(open(0, 5).ok());
  EXPECT_GE(world.now() - before, std::chrono::seconds(4));
  EXPECT_LE(world.now() - before, std::chrono::seconds(6));
}

TEST_F(NbdClientTest, ClosesWhileRequestsAreInFlight) {
  serve([](const nbd::Request&) { return std::optional<Message>(Message()); });    // never answers
  ASSERT_TRUE(open(60).ok());
  Reactor& reactor = process.reactor();
  Gate reading(reactor);
  run_detached(disk->read(0, Buffers(memory)), reading.enter());
  (void)process.run(reactor.sleep(std::chrono::seconds(1)));
  EXPECT_EQ(reading.count(), 1u);
  EXPECT_TRUE(process.run(disk->close()).ok());
  EXPECT_TRUE(process.run(reading.wait_idle()).ok());
  disk.reset();
}

// A read that is in flight when cancel_in_flight() is called: how it ends.
Task<> read_into(BlockDriver& disk, MutableBytes memory, Result<>& outcome) {
  outcome = co_await disk.read(0, Buffers(memory)).result();
}

TEST_F(NbdClientTest, CancelEndsWhatIsNotAnswered) {
  bool silent = true;
  serve([&](const nbd::Request& request) { return silent ? Message() : well(request); });
  ASSERT_TRUE(open(600).ok());
  Reactor& reactor = process.reactor();
  Gate reading(reactor);
  Result<> outcome;
  run_detached(read_into(*disk, memory, outcome), reading.enter());
  (void)process.run(reactor.sleep(std::chrono::seconds(1)));
  silent = false;
  const Instant before = world.now();
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
  EXPECT_TRUE(process.run(reading.wait_idle()).ok());
  EXPECT_LE(world.now() - before, std::chrono::seconds(1));
  EXPECT_EQ(outcome.error().code(), Errc::cancelled);
  EXPECT_EQ(outcome.error().message(), "NBD server '/nbd.sock': Operation canceled");
  (void)process.run(reactor.sleep(std::chrono::seconds(3)));
  EXPECT_TRUE(read().ok());                                  // by another connection
  EXPECT_EQ(server.connections, 2u);
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());   // nothing is: nothing happens
  EXPECT_TRUE(read().ok());
  EXPECT_EQ(server.connections, 2u);
}

Task<> write_from(BlockDriver& disk, Bytes memory, Result<>& outcome) {
  outcome = co_await disk.write(0, Buffers::of_const(memory), WriteFlags::none).result();
}

TEST_F(NbdClientTest, CancelEndsWhatIsAnsweredAndNotTaken) {
  server.answers_early = true;
  serve(well);
  ASSERT_TRUE(open(600).ok());
  Reactor& reactor = process.reactor();
  Gate writing(reactor);
  Result<> outcome;
  memory.resize(disk_size);
  run_detached(write_from(*disk, memory, outcome), writing.enter());
  (void)process.run(reactor.sleep(std::chrono::seconds(1)));
  ASSERT_EQ(writing.count(), 1u);
  const Instant before = world.now();
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
  EXPECT_TRUE(process.run(writing.wait_idle()).ok());
  EXPECT_LE(world.now() - before, std::chrono::seconds(1));
}

// There is no room for the goodbye where a server has not read what it has answered.
TEST_F(NbdClientTest, DoesNotWaitForeverToSayGoodbye) {
  server.answers_early = true;
  serve(well);
  ASSERT_TRUE(open().ok());
  memory.resize(world.options().socket_buffer);
  EXPECT_TRUE(process.run(disk->write(0, Buffers(memory), WriteFlags::none)).ok());
  const Instant before = world.now();
  EXPECT_TRUE(process.run(disk->close()).ok());
  EXPECT_GE(world.now() - before, std::chrono::milliseconds(900));       // or it was not in the way
  EXPECT_LE(world.now() - before, std::chrono::seconds(2));
  disk.reset();
}

TEST_F(NbdClientTest, CancelEndsWhatWaitsForAConnection) {
  serve(well);
  ASSERT_TRUE(open(600).ok());
  server.stop();
  serving = false;
  Reactor& reactor = process.reactor();
  Gate reading(reactor);
  Result<> outcome;
  run_detached(read_into(*disk, memory, outcome), reading.enter());
  (void)process.run(reactor.sleep(std::chrono::seconds(5)));
  EXPECT_EQ(reading.count(), 1u);
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
  EXPECT_TRUE(process.run(reading.wait_idle()).ok());
  EXPECT_EQ(outcome.error().code(), Errc::disconnected);
}

// Also when the connection is being lost just then.
TEST_F(NbdClientTest, CancelEndsWhatWaitsWheneverThatIs) {
  serve([&](const nbd::Request&) {
    server.size = disk_size / 2;                             // it does not come back
    return std::optional<Message>();
  });
  Reactor& reactor = process.reactor();
  for (int turns = 0; turns < 60; ++turns) {
    server.size = disk_size;
    ASSERT_TRUE(open(600).ok());
    Gate reading(reactor);
    run_detached(disk->read(0, Buffers(memory)), reading.enter());
    for (int i = 0; i < turns; ++i) reactor.turn();
    const Instant before = world.now();
    EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
    EXPECT_TRUE(process.run(reading.wait_idle()).ok());
    EXPECT_LE(world.now() - before, std::chrono::seconds(1)) << turns;
    EXPECT_TRUE(process.run(disk->close()).ok());
    disk.reset();
  }
}

}  // namespace
}  // namespace tidemark::test
