// Any bytes as what an NBD server says, from its greeting on or after a good handshake: every request of
// the client ends, with a result or an error, and the client closes.
//
// The first byte chooses: bit 0 whether the rest is all, else bits 1 and 2 what the handshake agrees on.  Requests
// have the cookies 1, 2, 3...
#include "io/sim/process.hpp"
#include "nbd/option.hpp"
#include "nbd/transmission.hpp"
#include "storage/nbd.hpp"
#include "task/detached.hpp"
#include "task/group.hpp"

using namespace tidemark;

namespace {

using Message = std::vector<std::byte>;

void append(Message& to, const Message& more) { to.insert(to.end(), more.begin(), more.end()); }

void reply(Message& to, nbd::Option option, nbd::OptionReply type) {
  Message message;
  nbd::encode_option_reply(message, option, type);
  append(to, message);
}

// A whole handshake, said without waiting for the questions.
Message handshake(nbd::Headers headers) {
  using nbd::Option;
  using nbd::OptionReply;
  Message all, context, info;
  nbd::encode_greeting(all, 3);
  const bool extended = headers == nbd::Headers::extended;
  reply(all, Option::extended_headers, extended ? OptionReply::ack : OptionReply::unsupported);
  const bool structured = headers == nbd::Headers::structured;
  if (!extended) reply(all, Option::structured_reply, structured ? OptionReply::ack : OptionReply::unsupported);
  if (headers != nbd::Headers::simple) {
    nbd::encode_context_reply(context, Option::set_meta_context, {1, std::string(nbd::context_allocation)});
    append(all, context);
    reply(all, Option::set_meta_context, OptionReply::ack);
  }
  constexpr std::uint16_t flags = nbd::export_flag::has_flags | nbd::export_flag::send_flush |
                                  nbd::export_flag::send_write_zeroes | nbd::export_flag::send_trim;
  nbd::encode_info_export(info, Option::go, {1 * MiB, flags});
  append(all, info);
  reply(all, Option::go, OptionReply::ack);
  return all;
}

class Server {
 public:
  Server(Reactor& reactor, Message words) : reactor_(reactor), words_(std::move(words)), running_(reactor) {}

  Task<> start(const SocketAddress& address) {
    listener_ = co_await Listener::listen(reactor_, address);
    run_detached(accept(), running_.enter());
  }
  Task<> stop() {
    stop_.request();
    co_await running_.wait_idle();
    co_await listener_.close();
  }

 private:
  Task<> accept() {
    for (;;) {
      Socket socket = co_await listener_.accept(stop_.token());
      run_detached(talk(std::move(socket)), running_.enter());
    }
  }
  Task<> talk(Socket socket) {
    const auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(listen(socket, group.token()));
      co_await socket.send_all(Buffers::of_const(words_), stop_.token());
      co_await reactor_.sleep(std::chrono::milliseconds(10), stop_.token());
    };
    (void)co_await with_group(reactor_, both).result();
    (void)co_await socket.close().result();
  }
  static Task<> listen(Socket& socket, CancelToken token) {
    std::byte ignored[4096];
    for (std::size_t got = 1; got != 0;) got = co_await socket.recv_some(MutableBytes(ignored), token);
  }

  Reactor& reactor_;
  const Message words_;
  Listener listener_;
  CancelSource stop_;
  Gate running_;
};

Task<> read(BlockDriver& disk, std::uint64_t offset, MutableBytes into) { co_await disk.read(offset, Buffers(into)); }

Task<> ask(Reactor& reactor, BlockDriver& disk) {
  std::vector<std::byte> first(4096), second(64 * KiB), third(512);
  Gate asking(reactor);
  const Range range{0, 64 * KiB};
  const auto map = [&]() -> Task<> { (void)co_await disk.map(range); };
  run_detached(read(disk, 0, first), asking.enter());
  run_detached(map(), asking.enter());
  run_detached(read(disk, 64 * KiB, second), asking.enter());
  run_detached(disk.write(4096, Buffers(MutableBytes(third)), WriteFlags::none), asking.enter());
  run_detached(disk.write_zeroes(range, WriteFlags::none), asking.enter());
  run_detached(disk.flush(), asking.enter());
  co_await asking.wait_idle();
  (void)co_await read(disk, 512, third).result();
}

Task<> use(Reactor& reactor, Message words) {
  NbdOptions options;
  options.server.path = "/nbd.sock";
  Server server(reactor, std::move(words));
  co_await server.start(options.server);
  auto disk = co_await open_nbd(reactor, options).result();
  if (disk) {
    co_await ask(reactor, **disk);
    co_await (*disk)->close();
    disk->reset();
  }
  co_await server.stop();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool all = (data[0] & 1) != 0;
  Message words;
  if (!all) words = handshake(static_cast<nbd::Headers>((data[0] >> 1) % 3));
  const Bytes rest = std::as_bytes(std::span(data, size)).subspan(1);
  words.insert(words.end(), rest.begin(), rest.end());
  SimWorld world(1);
  SimProcess process(world);
  const Result<> used = process.run(use(process.reactor(), std::move(words)));
  TM_ASSERT(used.ok());
  return 0;
}
