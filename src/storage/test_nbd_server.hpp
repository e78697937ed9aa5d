// For tests of the NBD client: a server whose answers are the test's, and a client of it, in the simulated world.
#pragma once

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>

#include "io/sim/process.hpp"
#include "nbd/option.hpp"
#include "nbd/transmission.hpp"
#include "storage/nbd.hpp"
#include "task/detached.hpp"

namespace tidemark::test {

using nbd::Headers;
using Message = std::vector<std::byte>;

inline constexpr std::uint64_t disk_size = 1 * MiB;

inline void append(Message& to, Bytes more) { to.insert(to.end(), more.begin(), more.end()); }

inline Message chunk(nbd::ChunkHeader header, Bytes payload = {}) {
  Message out(nbd::chunk_header_size(Headers::structured));
  header.length = payload.size();
  nbd::encode_chunk_header(out.data(), Headers::structured, header);
  append(out, payload);
  return out;
}

inline Message data_chunk(std::uint64_t cookie, std::uint64_t offset, std::size_t size, bool last = true) {
  Message payload(8 + size, std::byte{7});
  store_be(payload.data(), offset);
  const auto flags = static_cast<std::uint16_t>(last ? nbd::chunk_flag::done : 0);
  return chunk({flags, nbd::Chunk::offset_data, cookie, 0, 0}, payload);
}

inline Message error_chunk(std::uint64_t cookie, nbd::Status status, const std::string& text) {
  Message payload(nbd::error_prefix_size);
  nbd::encode_error(payload.data(), status, text.size());
  append(payload, as_bytes(text));
  return chunk({nbd::chunk_flag::done, nbd::Chunk::error, cookie, 0, 0}, payload);
}

inline Message done(std::uint64_t cookie) {
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
  std::optional<nbd::BlockSizes> sizes;
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
    if (go && sizes) nbd::encode_info_block_sizes(reply, option.option, *sizes);
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

inline std::optional<Message> well(const nbd::Request& request) {
  if (request.command == nbd::Command::read)
    return data_chunk(request.cookie, request.offset, request.length);
  return done(request.cookie);
}

}  // namespace tidemark::test
