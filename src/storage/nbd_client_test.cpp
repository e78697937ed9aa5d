// The NBD client against servers that go away, come back, or break the protocol.
#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <map>

#include "io/sim/process.hpp"
#include "nbd/option.hpp"
#include "nbd/transmission.hpp"
#include "storage/nbd.hpp"
#include "task/detached.hpp"

namespace tidemark {
namespace {

using nbd::Headers;
using Message = std::vector<std::byte>;

constexpr std::uint64_t disk_size = 1 * MiB;

void append(Message& to, Bytes more) { to.insert(to.end(), more.begin(), more.end()); }

Message chunk(nbd::ChunkHeader header, Bytes payload = {}) {
  Message out(nbd::chunk_header_size(Headers::structured));
  header.length = payload.size();
  nbd::encode_chunk_header(out.data(), Headers::structured, header);
  append(out, payload);
  return out;
}

Message data_chunk(std::uint64_t cookie, std::uint64_t offset, std::size_t size, bool last = true) {
  Message payload(8 + size, std::byte{7});
  store_be(payload.data(), offset);
  const auto flags = static_cast<std::uint16_t>(last ? nbd::chunk_flag::done : 0);
  return chunk({flags, nbd::Chunk::offset_data, cookie, 0, 0}, payload);
}

Message error_chunk(std::uint64_t cookie, nbd::Status status, const std::string& text) {
  Message payload(nbd::error_prefix_size);
  nbd::encode_error(payload.data(), status, text.size());
  append(payload, as_bytes(text));
  return chunk({nbd::chunk_flag::done, nbd::Chunk::error, cookie, 0, 0}, payload);
}

Message done(std::uint64_t cookie) {
  return chunk({nbd::chunk_flag::done, nbd::Chunk::none, cookie, 0, 0});
}

// A server by the letter up to the transmission phase; what it answers there is the test's.
class ScriptedServer {
 public:
  // To one request: what to send; none ends the connection.
  using Script = std::function<std::optional<Message>(const nbd::Request&)>;

  explicit ScriptedServer(Reactor& reactor) : reactor_(reactor), running_(reactor) {
    address.path = "/nbd.sock";
  }
  void start(Script script) {
    script_ = std::move(script);
    listener_ = *reactor_.run(Listener::listen(reactor_, address));
    stop_.emplace();
    run_detached(accept(), running_.enter());
  }
  void stop() {
    stop_->request();
    EXPECT_TRUE(reactor_.run(running_.wait_idle()).ok());
    EXPECT_TRUE(reactor_.run(listener_.close()).ok());
  }

  SocketAddress address;
  Message greeting;                     // instead of the true one
  std::uint16_t flags = nbd::export_flag::has_flags | nbd::export_flag::send_flush;
  std::uint64_t size = disk_size;
  unsigned connections = 0;
  Message payload;                      // of the last write
  bool answers_early = false;           // before it has read a write's payload, which it never does

 private:
  Task<> accept() {
    for (;;) {
      auto socket = co_await listener_.accept(stop_->token()).result();
      if (!socket) co_return;
      ++connections;
      run_detached(serve(*std::move(socket)), running_.enter());
    }
  }
  Task<> serve(Socket socket) {
    (void)co_await talk(socket).result();
    (void)co_await socket.close().result();
  }
  Task<> send(Socket& socket, const Message& message) {
    return socket.send_all(Buffers::of_const(message), stop_->token());
  }
  Task<> talk(Socket& socket) {
    Message hello = greeting;
    if (hello.empty()) nbd::encode_greeting(hello, 3);
    co_await send(socket, hello);
    std::byte client_flags[4];
    co_await socket.recv_all(MutableBytes(client_flags), stop_->token());
    bool entered = false;
    while (!entered) entered = co_await answer_option(socket);
    for (;;) {
      std::byte header[28];
      co_await socket.recv_all(MutableBytes(header), stop_->token());
      const auto request = nbd::decode_request(header, Headers::structured);
      if (!request || request->command == nbd::Command::disconnect) co_return;
      Message sent(answers_early ? 0 : nbd::payload_length(*request, Headers::structured));
      co_await socket.recv_all(MutableBytes(sent), stop_->token());
      payload = std::move(sent);
      const auto answer = script_(*request);
      if (!answer) co_return;
      co_await send(socket, *answer);
      if (answers_early) co_await reactor_.sleep(std::chrono::hours(1), stop_->token());
    }
  }
  Task<bool> answer_option(Socket& socket) {
    std::byte header[nbd::option_header_size];
    co_await socket.recv_all(MutableBytes(header), stop_->token());
    const nbd::OptionHeader option = co_await unwrap(nbd::decode_option_header(header));
    Message data(option.length), reply;
    co_await socket.recv_all(MutableBytes(data), stop_->token());
    const bool go = option.option == nbd::Option::go;
    auto outcome = nbd::OptionReply::unsupported;
    if (go || option.option == nbd::Option::structured_reply) outcome = nbd::OptionReply::ack;
    if (go) nbd::encode_info_export(reply, option.option, {size, flags});
    nbd::encode_option_reply(reply, option.option, outcome);
    co_await send(socket, reply);
    co_return go;
  }

  Reactor& reactor_;
  Script script_;
  Listener listener_;
  std::optional<CancelSource> stop_;
  Gate running_;
};

class NbdClientTest : public testing::Test {
 protected:
  ~NbdClientTest() override {
    if (disk) {
      EXPECT_TRUE(process.run(disk->close()).ok());
    }
    if (serving) server.stop();
  }
  void serve(ScriptedServer::Script script) {
    server.start(std::move(script));
    serving = true;
  }
  Result<> open(std::uint32_t reconnect_delay_s = 0, std::uint32_t open_timeout_s = 0) {
    NbdOptions options;
    options.server = server.address;
    options.reconnect_delay = std::chrono::seconds(reconnect_delay_s);
    options.open_timeout = std::chrono::seconds(open_timeout_s);
    auto opened = process.run(open_nbd(process.reactor(), options));
    if (!opened) return opened.error();
    disk = *std::move(opened);
    return {};
  }
  Result<> read() { return process.run(disk->read(0, Buffers(memory))); }
  // The read that a server answers so fails, the disk is usable again, and nothing is left waiting.
  void expect_violation(const std::function<Message(const nbd::Request&)>& answer,
                        const std::string& text) {
    bool bad = true;
    serve([&bad, answer](const nbd::Request& request) -> std::optional<Message> {
      return std::exchange(bad, false) ? answer(request)
                                       : data_chunk(request.cookie, request.offset, request.length);
    });
    ASSERT_TRUE(open(5).ok());
    const Result<> failed = read();
    ASSERT_FALSE(failed.ok());
    EXPECT_NE(failed.error().message().find(text), std::string::npos) << failed.error().message();
    EXPECT_EQ(failed.error().to_errno(), EIO);
    (void)process.run(process.reactor().sleep(std::chrono::seconds(3)));
    EXPECT_TRUE(read().ok());
  }

  SimWorld world{3};
  SimProcess process{world};
  ScriptedServer server{process.reactor()};
  bool serving = false;
  std::unique_ptr<BlockDriver> disk;
  std::vector<std::byte> memory = std::vector<std::byte>(4096);
};

std::optional<Message> well(const nbd::Request& request) {
  if (request.command == nbd::Command::read)
    return data_chunk(request.cookie, request.offset, request.length);
  return done(request.cookie);
}

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

  Content now, durable;
  unsigned flushes = 0, bad_flushes = 0, bad_writes = 0, breaks = 0;
  bool dies_at_writes = false, silent_flush = false;

 private:
  std::optional<Message> answer(const nbd::Request& request) {
    const bool write = request.command == nbd::Command::write, flush = request.command == nbd::Command::flush;
    if (breaks != 0 && request.command == nbd::Command::read) {
      --breaks;
      lose();
      return std::nullopt;
    }
    if (write && dies_at_writes) return std::nullopt;
    if (flush && silent_flush) return Message();
    if ((write && bad_writes != 0 && bad_writes-- != 0) || (flush && bad_flushes != 0 && bad_flushes-- != 0))
      return error_chunk(request.cookie, nbd::Status::io_error, "bad");
    if (write) now[request.offset] = server.payload[0];
    if (request.command == nbd::Command::write_zeroes) now[request.offset] = std::byte{0};
    if (flush) {
      ++flushes;
      durable = now;
    }
    return well(request);
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
  EXPECT_FALSE(flush().ok());                                // the server has said so once
  EXPECT_FALSE(flush().ok());
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

}  // namespace
}  // namespace tidemark
