// For tests of the NBD server: a graph with disks, a server over them, and a client that speaks the
// protocol byte by byte and says what it got.
//
// Straight-line code: each call of the client turns the reactor until it is done, and the server
// with it.  On a simulation a client that waits for what never comes aborts as a deadlock.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "block/test_driver.hpp"
#include "export/nbd/server.hpp"
#include "nbd/option.hpp"
#include "nbd/transmission.hpp"

namespace tidemark::test {

struct OptionAnswer {
  nbd::OptionReply type{};
  nbd::Message data;
  std::string text() const { return std::string(as_text(data)); }
};

// A reply as a client sees it when its last part has come.
struct Answer {
  std::uint32_t error = 0;
  std::string message;
  std::vector<std::byte> data;                          // holes filled with zeroes
  std::vector<std::pair<nbd::Chunk, Range>> content;    // chunks of a read
  std::vector<nbd::StatusChunk> status;
  bool simple = false;
};

class RawNbdClient {
 public:
  RawNbdClient(Reactor& reactor, SocketAddress address) : reactor_(reactor) {
    auto socket = reactor_.run(Socket::connect(reactor_, std::move(address)));
    EXPECT_TRUE(socket.ok());
    socket_ = *std::move(socket);
  }
  RawNbdClient(const RawNbdClient&) = delete;
  ~RawNbdClient() { close(); }
  void close() { EXPECT_TRUE(reactor_.run(socket_.close()).ok()); }

  bool send(Bytes bytes) { return reactor_.run(socket_.send_all(Buffers::of_const(bytes))).ok(); }
  // False when the server has not taken it all by then.
  bool send_within(Bytes bytes, Duration limit) {
    CancelSource enough;
    auto sending = [&](TaskGroup& group) -> Task<> {
      group.spawn(ask_later(enough, limit, group.token()));
      co_await socket_.send_all(Buffers::of_const(bytes), enough.token());
    };
    return reactor_.run(with_group(reactor_, sending)).ok();
  }
  std::vector<std::byte> receive(std::size_t size) {
    std::vector<std::byte> bytes(size);
    const bool all = reactor_.run(socket_.recv_all(MutableBytes(bytes))).ok();
    EXPECT_TRUE(all) << "the server closed the connection";
    if (!all) bytes.assign(size, std::byte{0});
    return bytes;
  }
  // False when the server has closed the connection before so much has come.
  bool try_receive(MutableBytes into) { return reactor_.run(socket_.recv_all(into)).ok(); }
  // True when the server has closed the connection, with nothing left to read.
  bool closed() {
    std::byte byte;
    const auto size = reactor_.run(socket_.recv_some(MutableBytes(&byte, 1)));
    return !size.ok() || *size == 0;
  }

  // --- handshake ---
  std::uint16_t greet(std::uint32_t flags = 3) {
    const auto greeting = nbd::decode_greeting(receive(nbd::greeting_size));
    EXPECT_TRUE(greeting.ok());
    std::byte answer[4];
    store_be(answer, flags);
    send(answer);
    return greeting.ok() ? *greeting : std::uint16_t{0};
  }
  void send_option(nbd::Option option, Bytes data = {}) {
    nbd::Message message;
    nbd::encode_option_header(message, {option, static_cast<std::uint32_t>(data.size())});
    message.insert(message.end(), data.begin(), data.end());
    send(message);
  }
  OptionAnswer receive_answer(nbd::Option option) {
    const auto header = nbd::decode_option_reply_header(receive(nbd::option_reply_header_size));
    EXPECT_TRUE(header.ok());
    if (!header) return {nbd::OptionReply::invalid, {}};
    EXPECT_EQ(header->option, option);
    return {header->type, receive(header->length)};
  }
  // All replies to an option; the last is the acknowledgement or the error.
  std::vector<OptionAnswer> option(nbd::Option option, Bytes data = {}) {
    send_option(option, data);
    std::vector<OptionAnswer> answers;
    do answers.push_back(receive_answer(option));
    while (answers.back().type != nbd::OptionReply::ack && !nbd::is_error(answers.back().type));
    return answers;
  }
  nbd::OptionReply outcome(nbd::Option asked, Bytes data = {}) { return option(asked, data).back().type; }

  std::vector<OptionAnswer> info_or_go(nbd::Option which, std::string name,
                                       std::vector<nbd::Info> infos = {}) {
    nbd::Message data;
    const nbd::InfoRequest request{std::move(name), std::move(infos)};
    nbd::encode_info_request(data, request);
    return option(which, data);
  }
  std::vector<OptionAnswer> contexts(nbd::Option which, std::string name,
                                     std::vector<std::string> queries) {
    nbd::Message data;
    const nbd::ContextRequest request{std::move(name), std::move(queries)};
    nbd::encode_context_request(data, request);
    return option(which, data);
  }
  // From the greeting to the transmission phase.
  void enter(nbd::Headers headers, std::string name = "", std::vector<std::string> queries = {},
             std::vector<nbd::Info> infos = {}) {
    headers_ = headers;
    greet();
    if (headers == nbd::Headers::structured) expect_ack(option(nbd::Option::structured_reply));
    if (headers == nbd::Headers::extended) expect_ack(option(nbd::Option::extended_headers));
    if (!queries.empty()) expect_ack(contexts(nbd::Option::set_meta_context, name, queries));
    expect_ack(info_or_go(nbd::Option::go, name, infos));
  }
  static void expect_ack(const std::vector<OptionAnswer>& answers) {
    EXPECT_EQ(answers.back().type, nbd::OptionReply::ack) << answers.back().text();
  }
  void assume(nbd::Headers headers) { headers_ = headers; }

  // --- transmission ---
  static std::vector<std::byte> encode(nbd::Headers headers, const nbd::Request& request) {
    std::vector<std::byte> bytes(nbd::request_size(headers));
    nbd::encode_request(bytes.data(), headers, request);
    return bytes;
  }
  bool send_request(const nbd::Request& request, Bytes payload = {}) {
    auto bytes = encode(headers_, request);
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    return send(bytes);
  }
  // One part of a reply; true when it is the last.  `offset_of` a cookie's request.
  bool receive_part(std::uint64_t& cookie, Answer& answer,
                    const std::function<std::uint64_t(std::uint64_t)>& offset_of,
                    std::size_t simple_data) {
    auto bytes = receive(4);
    const std::size_t size = nbd::reply_header_size(load_be<std::uint32_t>(bytes.data()), headers_);
    EXPECT_NE(size, 0u) << "not a reply of what was negotiated";
    if (size == 0) return answer.error = 0xffffffff, true;
    const auto rest = receive(size - 4);
    bytes.insert(bytes.end(), rest.begin(), rest.end());
    const nbd::ReplyHeader header = nbd::decode_reply_header(bytes.data());
    cookie = header.chunk.cookie;
    if (header.simple) {
      answer.simple = true;
      answer.error = header.error;
      if (header.error == 0) answer.data = receive(simple_data);
      return true;
    }
    const std::uint64_t offset = offset_of(cookie);
    EXPECT_EQ(header.chunk.offset, headers_ == nbd::Headers::extended ? offset : 0);
    take_chunk(header.chunk, receive(header.chunk.length), answer, offset);
    return (header.chunk.flags & nbd::chunk_flag::done) != 0;
  }
  Answer receive_reply(const nbd::Request& request) {
    Answer answer;
    const std::size_t data = request.command == nbd::Command::read ? request.length : 0;
    std::uint64_t cookie = 0;
    do {
      if (receive_part(cookie, answer, [&](std::uint64_t) { return request.offset; }, data)) {
        EXPECT_EQ(cookie, request.cookie);
        return answer;
      }
    } while (cookie == request.cookie);
    ADD_FAILURE() << "a reply to another request";
    return answer;
  }
  Answer request(nbd::Request request, Bytes payload = {}) {
    request.cookie = ++last_cookie_;
    send_request(request, payload);
    return receive_reply(request);
  }
  Answer read(std::uint64_t offset, std::uint64_t length, std::uint16_t flags = 0) {
    return request({flags, nbd::Command::read, 0, offset, length});
  }
  Answer write(std::uint64_t offset, Bytes data, std::uint16_t flags = 0) {
    if (headers_ == nbd::Headers::extended) flags |= nbd::command_flag::payload_len;
    return request({flags, nbd::Command::write, 0, offset, data.size()}, data);
  }
  Answer command(nbd::Command which, std::uint64_t offset = 0, std::uint64_t length = 0,
                 std::uint16_t flags = 0) {
    return request({flags, which, 0, offset, length});
  }

 private:
  Task<> ask_later(CancelSource& source, Duration after, CancelToken token) {
    co_await reactor_.sleep(after, token);
    source.request();
  }
  void take_chunk(const nbd::ChunkHeader& chunk, const std::vector<std::byte>& payload,
                  Answer& answer, std::uint64_t offset) {
    switch (chunk.type) {
      case nbd::Chunk::none:
        EXPECT_TRUE(payload.empty());
        break;
      case nbd::Chunk::offset_data: {
        ASSERT_GT(payload.size(), nbd::offset_data_prefix_size);
        const auto at = load_be<std::uint64_t>(payload.data());
        const Bytes data = Bytes(payload).subspan(nbd::offset_data_prefix_size);
        place(answer, at - offset, data);
        answer.content.push_back({chunk.type, {at, data.size()}});
        break;
      }
      case nbd::Chunk::offset_hole: {
        const auto hole = nbd::decode_offset_hole(payload);
        ASSERT_TRUE(hole.ok());
        place(answer, hole->offset - offset, std::vector<std::byte>(hole->length));
        answer.content.push_back({chunk.type, {hole->offset, hole->length}});
        break;
      }
      case nbd::Chunk::block_status:
      case nbd::Chunk::block_status_ext: {
        EXPECT_EQ(chunk.type, nbd::status_chunk_type(headers_));
        auto status = nbd::decode_status_chunk(payload, headers_);
        ASSERT_TRUE(status.ok());
        answer.status.push_back(*std::move(status));
        break;
      }
      default: {
        const auto error = nbd::decode_error(payload, chunk.type);
        ASSERT_TRUE(error.ok());
        answer.error = error->error;
        answer.message = error->message;
      }
    }
  }
  static void place(Answer& answer, std::uint64_t at, Bytes data) {
    if (answer.data.size() < at + data.size()) answer.data.resize(at + data.size());
    std::memcpy(answer.data.data() + at, data.data(), data.size());
  }

  Reactor& reactor_;
  Socket socket_;
  nbd::Headers headers_ = nbd::Headers::simple;
  std::uint64_t last_cookie_ = 0x1000;
};

// A reactor with nodes and a server; the test gives the backend.
class NbdBed {
 public:
  explicit NbdBed(IoBackend& io) : reactor(io), graph(reactor) {}
  ~NbdBed() {
    if (server) stop(NbdServer::StopMode::hard);
    EXPECT_TRUE(reactor.run(graph.close_all()).ok());
  }

  TestDriver& add_disk(std::string name, TestDriverOptions options = {}, NodeOptions node = {}) {
    auto driver = std::make_unique<TestDriver>(reactor, options);
    TestDriver& disk = *driver;
    node.name = std::move(name);
    node.monitor_owned = true;
    EXPECT_TRUE(reactor.run(graph.add(std::move(node), std::move(driver))).ok());
    return disk;
  }
  void serve(NbdServerOptions options = {}) {
    if (options.addresses.empty()) options.addresses = {address};
    auto listening = reactor.run(NbdServer::listen(reactor, std::move(options)));
    ASSERT_TRUE(listening.ok()) << listening.error().message();
    server = *std::move(listening);
    serving_ = server->serve().release();
    serving_.resume();
  }
  void stop(NbdServer::StopMode mode) {
    EXPECT_TRUE(reactor.run(server->stop(mode)).ok());
    while (!serving_.promise().finished) reactor.turn();
    serving_.destroy();
    server.reset();
  }
  NbdExport& add_export(std::string_view node, NbdExportOptions options) {
    auto added = server->add_export(*graph.find(node), std::move(options));
    EXPECT_TRUE(added.ok()) << (added ? "" : added.error().message());
    return **added;
  }
  RawNbdClient client() { return RawNbdClient(reactor, address); }

  SocketAddress address{SocketAddress::Kind::unix_path, "/nbd.sock", "", ""};
  Reactor reactor;
  Graph graph;
  std::unique_ptr<NbdServer> server;

 private:
  std::coroutine_handle<Task<>::promise_type> serving_;
};

}  // namespace tidemark::test
