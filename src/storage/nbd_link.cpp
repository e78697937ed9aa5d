#include "storage/nbd_link.hpp"

#include "task/group.hpp"

namespace tidemark {
namespace {

constexpr std::size_t inbox_size = 64 * KiB;
constexpr Duration goodbye_max = std::chrono::seconds(1);

}  // namespace

NbdLink::NbdLink(Socket socket, NbdTerms terms)
    : socket_(std::move(socket)), terms_(terms), sending_(socket_.reactor()), inbox_(inbox_size) {}

void NbdLink::end(Error why) noexcept {
  if (why_) return;
  why_ = std::move(why);
  stop_.request();
}

Task<> NbdLink::run() {
  const Result<> received = co_await receive().result();
  end(received.error());                     // it returns only so
  while (!pending_.empty()) {
    pending_.begin()->second->exchange.lost = true;
    finish(pending_.begin());
  }
  const auto nobody_sends = co_await sending_.lock();
  (void)co_await socket_.close().result();
  over_ = true;
}

Task<> NbdLink::perform(NbdExchange& exchange) {
  Pending pending(socket_.reactor(), exchange);
  {
    const auto turn = co_await sending_.lock();
    if (!takes_requests()) {
      exchange.lost = true;
      co_return;
    }
    const std::uint64_t cookie = ++last_cookie_;
    pending_.emplace(cookie, &pending);
    const Result<> sent = co_await send(exchange, cookie).result();
    if (!sent) end(sent.error());
  }
  co_await pending.done.wait();
  if (exchange.error != static_cast<std::uint32_t>(nbd::Status::shutdown)) co_return;
  // It says so to all that is in flight, done or not, and there may be another one soon.
  exchange.lost = true;
  end(Error(Errc::disconnected, "the server is shutting down", ESHUTDOWN));
}

Task<> NbdLink::send(const NbdExchange& exchange, std::uint64_t cookie) {
  const bool payload = exchange.command == nbd::Command::write;
  nbd::Request request{exchange.flags, exchange.command, cookie, exchange.range.offset,
                       exchange.range.length};
  if (payload && terms_.headers == nbd::Headers::extended)
    request.flags |= nbd::command_flag::payload_len;
  std::byte header[nbd::request_size(nbd::Headers::extended)];
  const std::size_t header_size = nbd::request_size(terms_.headers);
  nbd::encode_request(header, terms_.headers, request);
  std::vector<iovec> pieces{{header, header_size}};
  if (payload)
    exchange.data.for_each([&](MutableBytes piece) { pieces.push_back({piece.data(), piece.size()}); });
  const Buffers message{std::span<const iovec>(pieces)};
  co_await socket_.send_all(message, stop_.token());
}

Task<> NbdLink::leave() {
  // With requests pending the socket may be full; and without, when the server answers what it has not read.
  const auto within_limit = [&](TaskGroup& group) -> Task<> {
    group.spawn(expire(group.token()));
    NbdExchange goodbye;
    goodbye.command = nbd::Command::disconnect;
    co_await send(goodbye, 0);
  };
  if (!ended() && !pending()) (void)co_await with_group(socket_.reactor(), within_limit).result();
  close();
}

Task<> NbdLink::expire(CancelToken token) {
  co_await socket_.reactor().sleep(goodbye_max, token);
  close();
}

}  // namespace tidemark
