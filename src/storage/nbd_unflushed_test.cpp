// What a server has answered and not made durable, when it is started anew.
#include <map>

#include "storage/nbd_unflushed.hpp"
#include "storage/test_nbd_server.hpp"

namespace tidemark::test {
namespace {

// A server that keeps what it is told to flush, and loses the rest when it is started anew.
class NbdUnflushedTest : public NbdClientTest {
 protected:
  using Content = std::map<std::uint64_t, std::byte>;      // the first byte at an offset

  void begin(std::uint32_t delay_s) {
    serve(script());
    ASSERT_TRUE(open(delay_s).ok());
  }
  ScriptedServer::Script script() {
    return [this](const nbd::Request& request) { return answer(request); };
  }
  void lose() { now = durable; }
  Result<> write(std::uint64_t offset, unsigned char byte, WriteFlags flags = WriteFlags::none) {
    std::vector<std::byte> data(4096, std::byte{byte});
    return process.run(disk->write(offset, Buffers(data), flags));
  }
  Result<> flush() { return process.run(disk->flush()); }
  // By the next flush, whoever asks for it: what is lost was answered.
  bool is_told_once() { return !flush().ok() && flush().ok(); }
  void sleep(Duration duration) { (void)process.run(process.reactor().sleep(duration)); }
  // Started anew, without what was not flushed.
  void restart() {
    server.stop();
    lose();
    server.start(script());
  }

  Content now, durable;
  std::multimap<std::uint64_t, std::byte> seen;
  unsigned flushes = 0, bad_flushes = 0, bad_writes = 0, breaks = 0;
  unsigned goodbyes = 0;                                     // of a server that is shutting down
  bool refuses_trims = false;
  bool dies_at_writes = false, silent_flush = false, silent_writes = false;
  bool late_flush = false;                                   // it is answered before the next read is
  unsigned late_writes = 0;                                  // likewise
  Message late;

 private:
  std::optional<Message> answer(const nbd::Request& request) {
    const bool write = request.command == nbd::Command::write, flush = request.command == nbd::Command::flush;
    if (breaks != 0 && request.command == nbd::Command::read) {
      --breaks;
      lose();
      return std::nullopt;
    }
    if (goodbyes != 0 && request.command != nbd::Command::read) {
      --goodbyes;
      lose();
      return error_chunk(request.cookie, nbd::Status::shutdown, "");
    }
    if (request.command == nbd::Command::trim && refuses_trims) return error_chunk(request.cookie, nbd::Status::not_supported, "");
    if (write && dies_at_writes) return std::nullopt;
    if ((flush && silent_flush) || (write && silent_writes)) return Message();
    if ((write && bad_writes != 0 && bad_writes-- != 0) || (flush && bad_flushes != 0 && bad_flushes-- != 0))
      return error_chunk(request.cookie, nbd::Status::io_error, "bad");
    if (write) {
      now[request.offset] = server.payload[0];
      seen.emplace(request.offset, server.payload[0]);
    }
    if (request.command == nbd::Command::write_zeroes) now[request.offset] = std::byte{0};
    if (flush) {
      ++flushes;
      durable = now;
    }
    Message reply = *well(request);
    if ((flush && late_flush) || (write && late_writes != 0 && late_writes-- != 0)) {
      late = std::exchange(reply, {});
    } else if (request.command == nbd::Command::read) {
      append(late, reply);
      reply = std::exchange(late, {});
    }
    return reply;
  }
};

TEST_F(NbdUnflushedTest, IsSentAgainBeforeWhatWaits) {
  server.flags |= nbd::export_flag::send_write_zeroes | nbd::export_flag::send_fua;
  begin(10);
  EXPECT_TRUE(write(0, 1).ok());
  EXPECT_TRUE(flush().ok());
  EXPECT_TRUE(write(0, 2).ok());
  EXPECT_TRUE(write(4096, 3).ok());
  EXPECT_TRUE(write(4096, 4, WriteFlags::fua).ok());
  EXPECT_TRUE(process.run(disk->write_zeroes({8192, 4096}, WriteFlags::none)).ok());
  breaks = 2;
  EXPECT_TRUE(read().ok());                                  // by the third connection
  EXPECT_EQ(server.connections, 3u);
  EXPECT_TRUE(flush().ok());
  const Content whole{{0, std::byte{2}}, {4096, std::byte{4}}, {8192, std::byte{0}}};
  EXPECT_EQ(durable, whole);
}

TEST_F(NbdUnflushedTest, WhatWasWrittenAgainLaterIsNot) {
  server.flags |= nbd::export_flag::send_fua;
  begin(10);
  EXPECT_TRUE(write(0, 1).ok());
  EXPECT_TRUE(write(4096, 1).ok());
  EXPECT_TRUE(write(0, 2, WriteFlags::fua).ok());
  seen.clear();
  breaks = 1;
  EXPECT_TRUE(read().ok());
  const std::multimap<std::uint64_t, std::byte> again{{0, std::byte{2}}, {4096, std::byte{1}}};
  EXPECT_EQ(seen, again);
}

TEST_F(NbdUnflushedTest, IsSentAgainThoughNothingWasInFlight) {
  begin(0);
  EXPECT_TRUE(write(0, 2).ok());
  server.stop();
  lose();
  server.start(script());
  (void)process.run(process.reactor().sleep(std::chrono::seconds(5)));
  EXPECT_TRUE(flush().ok());
  EXPECT_EQ(durable, (Content{{0, std::byte{2}}}));
  breaks = 1;
  EXPECT_FALSE(read().ok());
  (void)process.run(process.reactor().sleep(std::chrono::seconds(5)));
  EXPECT_EQ(now, durable);                                   // what was flushed is not sent again
}

TEST_F(NbdUnflushedTest, TheNextFlushTellsWhatCannotBeWrittenAgain) {
  begin(10);
  EXPECT_TRUE(write(0, 2).ok());
  EXPECT_TRUE(write(4096, 2).ok());
  breaks = bad_writes = 1;
  EXPECT_TRUE(read().ok());
  const Result<> told = flush();
  ASSERT_FALSE(told.ok());
  EXPECT_NE(told.error().message().find("written again"), std::string::npos) << told.error().message();
  EXPECT_FALSE(flush().ok());                                // whoever asks
  EXPECT_EQ(now.size(), 1u);                                 // the other one is there
}

TEST_F(NbdUnflushedTest, ADiscardThatIsRefusedTheSecondTimeIsNotMissed) {
  server.flags |= nbd::export_flag::send_trim;
  begin(10);
  EXPECT_TRUE(write(0, 2).ok());
  EXPECT_TRUE(process.run(disk->discard({4096, 4096})).ok());
  breaks = 1;
  refuses_trims = true;
  EXPECT_TRUE(read().ok());
  EXPECT_TRUE(flush().ok());
  EXPECT_EQ(durable, (Content{{0, std::byte{2}}}));
}

// What it answers so is done by the one that is there after it.
TEST_F(NbdUnflushedTest, AServerThatShutsDownIsLost) {
  begin(10);
  EXPECT_TRUE(write(0, 1).ok());
  goodbyes = 2;                                              // to this one, and to what is sent again
  EXPECT_TRUE(write(4096, 2).ok());
  EXPECT_EQ(server.connections, 3u);
  EXPECT_EQ(now, (Content{{0, std::byte{1}}, {4096, std::byte{2}}}));
  goodbyes = 1;
  EXPECT_TRUE(flush().ok());
  EXPECT_EQ(durable, (Content{{0, std::byte{1}}, {4096, std::byte{2}}}));
  EXPECT_TRUE(write(0, 3).ok());
  goodbyes = 1;
  disk->writers_gone();                                      // a flush that nobody has asked for
  sleep(std::chrono::seconds(3));
  EXPECT_EQ(server.connections, 5u);
  EXPECT_TRUE(write(8192, 4).ok());
  EXPECT_TRUE(is_told_once());
}

TEST_F(NbdUnflushedTest, AServerThatShutsDownIsNotWaitedForWithoutADelay) {
  begin(0);
  goodbyes = 1;
  const Result<> failed = write(0, 1);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().code(), Errc::disconnected);
  EXPECT_EQ(failed.error().to_errno(), EIO);
  sleep(std::chrono::seconds(3));
  EXPECT_TRUE(write(0, 1).ok());
  EXPECT_EQ(server.connections, 2u);
}

TEST_F(NbdUnflushedTest, AServerThatDiesAgainIsNotWaitedForLonger) {
  begin(3);
  for (unsigned i = 0; i < 10; ++i) EXPECT_TRUE(write(i * 4096, 2).ok());
  breaks = 1;
  dies_at_writes = true;
  const Instant before = world.now();
  EXPECT_FALSE(read().ok());
  EXPECT_FALSE(read().ok());
  EXPECT_LE(world.now() - before, std::chrono::seconds(5));
  (void)process.run(process.reactor().sleep(std::chrono::seconds(60)));
  EXPECT_LE(server.connections, 12u);
  dies_at_writes = false;
  (void)process.run(process.reactor().sleep(std::chrono::seconds(20)));
  EXPECT_TRUE(flush().ok());
  EXPECT_EQ(durable.size(), 10u);
}

TEST_F(NbdUnflushedTest, AServerThatAlwaysBreaksOffIsGivenUp) {
  begin(10);
  EXPECT_TRUE(write(0, 2).ok());
  breaks = 1000000;
  EXPECT_FALSE(read().ok());
  EXPECT_LE(server.connections, 20u);
}

TEST_F(NbdUnflushedTest, AServerThatTakesItAgainWithoutAWordIsGivenUp) {
  begin(2);
  EXPECT_TRUE(write(0, 2).ok());
  for (const bool cancelled : {false, true}) {
    silent_writes = true;
    restart();
    sleep(std::chrono::seconds(5));
    EXPECT_FALSE(read().ok());
    const unsigned connections = server.connections;
    silent_writes = false;                                   // it has taken it before
    if (cancelled) {
      EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
      sleep(std::chrono::seconds(3));
    } else {
      sleep(std::chrono::seconds(20));
      EXPECT_EQ(server.connections, connections);
      EXPECT_FALSE(read().ok());
      sleep(std::chrono::seconds(10));
    }
    EXPECT_TRUE(read().ok());
    EXPECT_EQ(now, (Content{{0, std::byte{2}}}));
  }
  EXPECT_TRUE(flush().ok());
}

TEST_F(NbdUnflushedTest, ClosesWheneverThatIs) {
  for (int turns = 0; turns < 40; ++turns) {
    begin(10);
    EXPECT_TRUE(write(0, 2).ok());
    breaks = 1;
    Gate reading(process.reactor());
    run_detached(disk->read(0, Buffers(memory)), reading.enter());
    (void)process.run(process.reactor().sleep(std::chrono::milliseconds(50) * (turns / 20)));
    for (int i = 0; i < turns % 20 * 5; ++i) (void)process.run(process.reactor().sleep(std::chrono::microseconds(10)));
    const Instant before = world.now();
    EXPECT_TRUE(process.run(disk->close()).ok());
    EXPECT_LE(world.now() - before, std::chrono::seconds(2));
    EXPECT_TRUE(process.run(reading.wait_idle()).ok());
    disk.reset();
    server.stop();
    serving = false;
  }
}

TEST_F(NbdUnflushedTest, WritesWaitForRoomWhileAFlushIsUnderWay) {
  begin(10);
  std::vector<std::byte> data(1 * MiB, std::byte{5});
  unsigned written = 0;
  const auto write_much = [&]() -> Task<> {
    for (; written < 200; ++written) co_await disk->write(0, Buffers(data), WriteFlags::none);
  };
  silent_flush = true;
  Gate running(process.reactor());
  run_detached(disk->flush(), running.enter());
  run_detached(write_much(), running.enter());
  (void)process.run(process.reactor().sleep(std::chrono::seconds(1)));
  EXPECT_GE(written, 60u);
  EXPECT_LE(written, 70u);
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
  (void)process.run(process.reactor().sleep(std::chrono::seconds(1)));
  silent_flush = false;
  EXPECT_TRUE(process.run(running.wait_idle()).ok());
}

TEST_F(NbdUnflushedTest, ManyWritesAtOnceWaitForRoom) {
  begin(10);
  std::vector<std::byte> data(1 * MiB, std::byte{5});
  unsigned written = 0;
  const auto write_one = [&]() -> Task<> {
    co_await disk->write(0, Buffers(data), WriteFlags::none);
    ++written;
  };
  silent_flush = true;
  Gate running(process.reactor());
  run_detached(disk->flush(), running.enter());
  for (unsigned i = 0; i < 400; ++i) run_detached(write_one(), running.enter());
  sleep(std::chrono::seconds(1));
  EXPECT_GE(written, 65u);
  EXPECT_LE(written, 65u + 127u);                            // what had begun before
  EXPECT_TRUE(process.run(disk->cancel_in_flight()).ok());
  EXPECT_TRUE(process.run(running.wait_idle()).ok());
}

TEST_F(NbdUnflushedTest, IsFlushedUnaskedWhenItIsMuch) {
  begin(10);
  std::vector<std::byte> data(1 * MiB, std::byte{5});
  const auto write_much = [&] {
    for (int i = 0; i < 80; ++i) EXPECT_TRUE(process.run(disk->write(0, Buffers(data), WriteFlags::none)).ok());
  };
  write_much();
  EXPECT_GE(flushes, 2u);
  EXPECT_LE(flushes, 3u);
  bad_flushes = 1;
  write_much();
  EXPECT_TRUE(is_told_once());                               // as of a flush that somebody asked for
}

TEST_F(NbdUnflushedTest, WhatOverlapsIsWrittenInTurn) {
  server.flags |= nbd::export_flag::send_fua;
  begin(10);
  std::vector<std::byte> first(4096, std::byte{1}), second(4096, std::byte{2});
  Gate running(process.reactor());
  late_writes = 1;
  run_detached(disk->write(0, Buffers(first), WriteFlags::none), running.enter());
  run_detached(disk->write(0, Buffers(second), WriteFlags::fua), running.enter());
  sleep(std::chrono::seconds(1));
  EXPECT_TRUE(read().ok());                                  // the server may answer the second one first, else
  EXPECT_TRUE(process.run(running.wait_idle()).ok());
  EXPECT_EQ(now, (Content{{0, std::byte{2}}}));
  restart();
  sleep(std::chrono::seconds(5));
  EXPECT_EQ(now, (Content{{0, std::byte{2}}}));
}

TEST_F(NbdUnflushedTest, ItsEndWaitsForAFlushUnderWay) {
  begin(0);
  EXPECT_TRUE(write(0, 1).ok());
  bad_flushes = 1;
  disk->writers_gone();
  const Result<> closed = process.run(disk->close());
  EXPECT_FALSE(closed.ok());
  EXPECT_EQ(durable.size(), 0u);
  ASSERT_TRUE(open(0).ok());
  EXPECT_TRUE(write(0, 1).ok());
  disk->writers_gone();
  EXPECT_TRUE(process.run(disk->close()).ok());
  EXPECT_EQ(durable.size(), 1u);
  ASSERT_TRUE(open(0).ok());
  EXPECT_TRUE(write(0, 1).ok());
  silent_flush = true;
  disk->writers_gone();
  const Instant before = process.reactor().now();
  EXPECT_FALSE(process.run(disk->close()).ok());
  EXPECT_LT(process.reactor().now() - before, std::chrono::seconds(6));
  disk.reset();
}

TEST(UnflushedWritesTest, DiscardsAndWritesAreNotManyMorePieces) {
  UnflushedWrites writes;
  constexpr std::uint64_t count = 300;
  const auto change = [&](nbd::Command command, Range range) {
    NbdExchange exchange;
    exchange.command = command;
    exchange.range = range;
    writes.add(exchange);
  };
  change(nbd::Command::write_zeroes, {0, 4096});
  for (std::uint64_t i = 0; i < count; ++i) change(nbd::Command::trim, {0, 16 * MiB});
  for (std::uint64_t i = 0; i < count; ++i) change(nbd::Command::write_zeroes, {i * 8192 + 4096, 4096});
  change(nbd::Command::trim, {4096, 4096});
  const auto pieces = writes.pieces();
  ASSERT_EQ(pieces.size(), 1 + (count + 1) + count + 1);
  // What a discard may leave, the last discard but for what is newer, what was written since, and a discard of some of that.
  EXPECT_EQ(pieces.front().range, (Range{0, 4096}));
  EXPECT_EQ(pieces[1].range, (Range{count * 8192, 16 * MiB - count * 8192}));
  for (std::uint64_t i = 0; i < count; ++i) EXPECT_EQ(pieces[count + 1 - i].range, (Range{i * 8192, 4096}));
  for (std::uint64_t i = 1; i <= count + 1; ++i) EXPECT_EQ(pieces[i].entry->number, count + 1);
  for (std::uint64_t i = 0; i < count; ++i) EXPECT_EQ(pieces[count + 2 + i].range, (Range{i * 8192 + 4096, 4096}));
  EXPECT_EQ(pieces.back().exchange().command, nbd::Command::trim);
}

// What a server that is away has lost may be another's by the time that it is back.
TEST_F(NbdUnflushedTest, IsForgottenWithItsLastWriterWhileTheServerIsAway) {
  begin(0);
  EXPECT_TRUE(write(0, 1).ok());
  server.stop();
  lose();
  sleep(std::chrono::seconds(1));
  disk->writers_gone();
  server.start(script());
  sleep(std::chrono::seconds(20));
  EXPECT_TRUE(write(4096, 2).ok());                          // by another
  breaks = 1;
  EXPECT_FALSE(read().ok());
  sleep(std::chrono::seconds(5));
  EXPECT_TRUE(is_told_once());
  EXPECT_EQ(durable, (Content{{4096, std::byte{2}}}));
}

TEST_F(NbdUnflushedTest, IsFlushedWhenItsLastWriterGoes) {
  begin(0);
  EXPECT_TRUE(write(0, 1).ok());
  disk->writers_gone();
  sleep(std::chrono::seconds(1));
  EXPECT_EQ(durable, (Content{{0, std::byte{1}}}));
  disk->writers_gone();
  sleep(std::chrono::seconds(1));
  EXPECT_EQ(flushes, 1u);                                    // nothing is left to flush
  EXPECT_TRUE(write(0, 2).ok());
  bad_flushes = 1;
  disk->writers_gone();
  sleep(std::chrono::seconds(1));
  EXPECT_EQ(bad_flushes, 0u);
  EXPECT_TRUE(write(0, 3).ok());                             // by another
  EXPECT_TRUE(is_told_once());
}

TEST_F(NbdUnflushedTest, IsNotSentAgainWhenTheLastFlushIsNotAnswered) {
  begin(0);
  EXPECT_TRUE(write(0, 1).ok());
  silent_flush = true;
  disk->writers_gone();
  EXPECT_TRUE(write(4096, 2).ok());                          // by another
  restart();
  silent_flush = false;
  sleep(std::chrono::seconds(5));
  EXPECT_EQ(now, (Content{{4096, std::byte{2}}}));
  EXPECT_TRUE(is_told_once());
}

// Who writes beside a flush, and goes, is not left to the next one.
TEST_F(NbdUnflushedTest, IsFlushedAfterTheFlushThatWasUnderWayWhenItsLastWriterWent) {
  for (const bool unasked : {false, true}) {
    now = durable = {};
    flushes = 0;
    begin(0);
    EXPECT_TRUE(write(0, 1).ok());
    late_flush = true;
    Gate flushing(process.reactor());
    if (unasked) disk->writers_gone();
    else run_detached(disk->flush(), flushing.enter());
    sleep(std::chrono::seconds(1));
    EXPECT_TRUE(write(4096, 2).ok());
    disk->writers_gone();
    sleep(std::chrono::seconds(1));
    EXPECT_EQ(flushes, 1u);
    EXPECT_EQ(durable, (Content{{0, std::byte{1}}}));
    late_flush = false;
    EXPECT_TRUE(read().ok());
    EXPECT_TRUE(process.run(flushing.wait_idle()).ok());
    sleep(std::chrono::seconds(1));
    EXPECT_EQ(flushes, 2u);
    EXPECT_EQ(durable, (Content{{0, std::byte{1}}, {4096, std::byte{2}}}));
    EXPECT_TRUE(flush().ok());
    EXPECT_TRUE(process.run(disk->close()).ok());
    disk.reset();
    server.stop();
    serving = false;
  }
}

TEST_F(NbdUnflushedTest, IsLostWithTheFlushThatWasUnderWayWhenItsLastWriterWent) {
  begin(10);
  EXPECT_TRUE(write(0, 1).ok());
  silent_flush = true;
  Result<> told;
  const auto flush_it = [&]() -> Task<> { told = co_await disk->flush().result(); };
  Gate flushing(process.reactor());
  run_detached(flush_it(), flushing.enter());
  sleep(std::chrono::seconds(1));
  EXPECT_TRUE(write(4096, 2).ok());
  disk->writers_gone();
  restart();
  silent_flush = false;
  EXPECT_TRUE(process.run(flushing.wait_idle()).ok());
  EXPECT_FALSE(told.ok());                                   // it is sent again, and is the next one
  EXPECT_TRUE(flush().ok());
  EXPECT_EQ(now, Content());
}

// It may be slow: what it is sent again takes it as long each time.
TEST_F(NbdUnflushedTest, AServerThatIsSilentAgainGetsTwiceAsLong) {
  begin(0);
  EXPECT_TRUE(write(0, 2).ok());
  const auto until_next = [&] {
    const Instant before = world.now();
    const unsigned connections = server.connections;
    while (server.connections == connections && world.now() - before < std::chrono::minutes(10)) sleep(std::chrono::milliseconds(100));
    return world.now() - before;
  };
  for (int i = 0; i < 2; ++i) {
    silent_writes = true;
    restart();
    (void)until_next();
    for (const int limit : {30, 60, 120, 240}) {
      const Duration given = until_next();
      EXPECT_GE(given, std::chrono::seconds(limit));
      EXPECT_LE(given, std::chrono::seconds(limit + 17));    // with the pause before the next one
    }
    silent_writes = false;                                   // it has this connection's
    (void)until_next();
    sleep(std::chrono::seconds(1));
    EXPECT_TRUE(read().ok());
    EXPECT_EQ(now, (Content{{0, std::byte{2}}}));            // and is given the first limit again
  }
  EXPECT_TRUE(flush().ok());
}

// Another program may write to the export from then on.
TEST_F(NbdUnflushedTest, NothingIsSentAgainOnceItIsReadOnly) {
  unsigned in_the_middle = 0;
  for (int turns = 0; turns < 60; ++turns) {
    seen.clear();
    begin(10);
    for (unsigned i = 0; i < 200; ++i) EXPECT_TRUE(write(i * 4096, 2).ok());
    breaks = 1;
    Gate reading(process.reactor());
    run_detached(disk->read(0, Buffers(memory)), reading.enter());
    for (int i = 0; i < turns; ++i) sleep(std::chrono::microseconds(20));
    const Instant before = world.now();
    disk->writers_gone();
    EXPECT_TRUE(process.run(disk->set_read_only(true)).ok());
    EXPECT_LE(world.now() - before, std::chrono::seconds(1));
    const std::size_t sent = seen.size();
    sleep(std::chrono::seconds(5));
    EXPECT_EQ(seen.size(), sent) << turns;
    if (sent > 200 && sent < 400) ++in_the_middle;
    EXPECT_TRUE(process.run(reading.wait_idle()).ok());
    EXPECT_TRUE(read().ok());
    EXPECT_TRUE(process.run(disk->close()).ok());
    disk.reset();
    server.stop();
    serving = false;
  }
  EXPECT_NE(in_the_middle, 0u);
}

TEST_F(NbdUnflushedTest, AServerThatTakesItAgainWithoutAWordIsGivenUpAtTheEnd) {
  begin(0);
  EXPECT_TRUE(write(0, 1).ok());
  silent_writes = true;
  restart();
  sleep(std::chrono::seconds(3));
  const Instant before = world.now();
  EXPECT_EQ(process.run(disk->set_read_only(true)).error().code(), Errc::timed_out);      // what is on its way may be written later
  EXPECT_LE(world.now() - before, std::chrono::seconds(2));
  sleep(std::chrono::seconds(5));
  EXPECT_TRUE(read().ok());                                  // by another connection
}

}  // namespace
}  // namespace tidemark::test
