// NbdTransmission's receiver.  A batch of requests that came together is parsed without a system call;
// reads that the page cache answers are done on the way, and all their replies leave together.
#include <cstring>

#include "export/nbd/transmission.hpp"

namespace tidemark {
namespace {

constexpr std::size_t inbox_size = 128 * KiB;
// Behind a payload that comes in, at most so much more is taken: what is in the inbox is copied once.
constexpr std::size_t inbox_behind_payload = 16 * KiB;

Error violation(std::string_view what) {
  return Error(Errc::invalid_format, "NBD client: " + std::string(what));
}

// Requests that are answered on the way, one after the other, come to so much before others get their turn.
constexpr std::uint64_t turn_max = 2 * MiB;
constexpr std::uint64_t without_data = 128 * KiB;        // what another one counts for

std::uint64_t cost_of(const nbd::Request& request) {
  const bool moves_data = request.command == nbd::Command::read || request.command == nbd::Command::write;
  return moves_data ? request.length : without_data;
}

// What a request may keep in memory until it is answered.
std::uint64_t memory_of(const nbd::Request& request) {
  const bool moves_data =
      request.command == nbd::Command::read || request.command == nbd::Command::write;
  return moves_data ? request.length : NbdTransmission::working_memory;
}

}  // namespace

NbdTransmission::NbdTransmission(Socket& socket, NbdAgreement agreement, BufferPool& pool,
                                 CancelSource& stop, CancelSource& drop)
    : socket_(socket), agreement_(std::move(agreement)), disk_(*agreement_.disk),
      headers_(agreement_.headers), pool_(pool), stop_(stop), drop_(drop),
      credit_(socket.reactor(), Credit::client_total), replies_(socket, stop, drop), over_(socket.reactor()),
      inbox_(pool.take(inbox_size)), told_losses_(disk_.disk().losses()), known_losses_(told_losses_),
      heard_debt_(disk_.loss_debt().open() ? 0 : disk_.loss_debt().number()) {}

Task<> NbdTransmission::run() {
  auto serve = [this](TaskGroup& requests) -> Task<> {
    const Result<void> received = co_await receive(requests).result();
    receiving_ = false;
    replies_.unhold();
    co_await requests.join();
    leave();
    if (!received) co_await received.error();
  };
  auto serve_and_send = [this, serve](TaskGroup& sender) -> Task<> {
    sender.spawn(replies_.run());
    sender.spawn(hang_up());
    const Result<void> served = co_await with_group(socket_.reactor(), serve).result();
    replies_.close();
    over_.set();
    co_await sender.join();
    if (!served) co_await served.error();
  };
  co_await with_group(socket_.reactor(), serve_and_send);
}

// A client that is dropped hears of it at once: what it has in flight may never end.
Task<> NbdTransmission::hang_up() {
  const Result<void> ended = co_await over_.wait(drop_.token()).result();
  if (!ended) (void)co_await socket_.shutdown().result();
}

Task<> NbdTransmission::receive(TaskGroup& requests) {
  const std::size_t header_size = nbd::request_size(headers_);
  std::uint64_t taken = 0;
  replies_.hold();
  for (;;) {
    while (received() >= header_size && !stop_.requested()) {
      const auto request = nbd::decode_request(inbox_.data() + begin_, headers_);
      if (!request) co_await violation("wrong request magic");
      (void)consume(header_size);
      takes_leave_ = request->command == Command::disconnect;
      if (takes_leave_) co_return;
      co_await take(*request, requests);
      taken += cost_of(*request);
      if (taken < turn_max) continue;
      taken = 0;
      co_await let_others();
    }
    taken = 0;
    co_await receive_more();
  }
}

Task<> NbdTransmission::let_others() {
  replies_.unhold();
  co_await socket_.reactor().yield();
  replies_.hold();
}

// Refuses a request or starts it; takes its payload off the stream in either case.
Task<> NbdTransmission::take(Request request, TaskGroup& requests) {
  const std::uint64_t payload = nbd::payload_length(request, headers_);
  if (payload > nbd::payload_size_max) co_await violation("payload too large");
  const Verdict verdict = check(request);
  const bool refused = verdict.status != Status::ok;
  const std::uint64_t memory = refused ? 0 : memory_of(request);
  Credit credit = Credit::try_take(credit_, memory);
  if (!credit) credit = co_await wait_for_credit(memory);
  if (refused) {
    co_await skip_payload(payload);
    co_return fail(request, verdict.status, verdict.reason, std::move(credit));
  }
  PooledBuffer data;
  if (payload != 0) {
    data = pool_.take(payload);
    const Bytes here = consume(payload);
    std::memcpy(data.data(), here.data(), here.size());
    if (here.size() < payload) co_await receive_payload(data.bytes().subspan(here.size()));
  }
  start(request, std::move(data), std::move(credit), requests);
}

void NbdTransmission::start(const Request& request, PooledBuffer data, Credit credit,
                            TaskGroup& requests) {
  switch (request.command) {
    case Command::read: return requests.spawn(read(request, std::move(credit)));
    case Command::write:
      return requests.spawn(write(request, std::move(data), std::move(credit)));
    case Command::flush: return requests.spawn(flush(request, std::move(credit)));
    case Command::trim: return requests.spawn(trim(request, std::move(credit)));
    case Command::cache: return requests.spawn(cache(request, std::move(credit)));
    case Command::write_zeroes: return requests.spawn(write_zeroes(request, std::move(credit)));
    case Command::block_status:
      return requests.spawn(block_status(request, std::move(data), std::move(credit)));
    case Command::disconnect: break;
  }
  TM_ASSERT(false);                                // check() lets nothing else pass
}

Task<Credit> NbdTransmission::wait_for_credit(std::uint64_t data) {
  replies_.unhold();
  auto credit = co_await Credit::take(credit_, data, stop_.token()).result();
  replies_.hold();
  co_return co_await unwrap(std::move(credit));
}

Bytes NbdTransmission::consume(std::uint64_t at_most) noexcept {
  const std::size_t size = static_cast<std::size_t>(std::min<std::uint64_t>(received(), at_most));
  const Bytes taken(inbox_.data() + begin_, size);
  begin_ += size;
  return taken;
}

Task<std::size_t> NbdTransmission::receive_some(Buffers into) {
  replies_.unhold();
  IoOp op(IoOp::Kind::recv, socket_.handle());
  op.buffers = into;
  const std::int64_t result = co_await socket_.reactor().perform(op, stop_.token());
  replies_.hold();
  if (result < 0) co_await Error::from_errno(static_cast<int>(-result), "receive");
  if (result == 0) co_await Error(Errc::disconnected, "NBD client: went without disconnecting");
  co_return static_cast<std::size_t>(result);
}

// More bytes into the inbox, behind the part of a header that may be there.
Task<> NbdTransmission::receive_more() {
  std::memmove(inbox_.data(), inbox_.data() + begin_, received());
  end_ = received();
  begin_ = 0;
  const std::size_t size = co_await receive_some(inbox_.bytes().subspan(end_));
  end_ += size;
}

// The inbox is empty; what comes behind the payload goes there.
Task<> NbdTransmission::receive_payload(MutableBytes into) {
  while (!into.empty()) {
    const iovec pieces[2] = {{into.data(), into.size()}, {inbox_.data(), inbox_behind_payload}};
    const std::size_t size = co_await receive_some(Buffers(std::span<const iovec>(pieces)));
    const std::size_t part = std::min(size, into.size());
    into = into.subspan(part);
    begin_ = 0;
    end_ = size - part;
  }
}

Task<> NbdTransmission::skip_payload(std::uint64_t length) {
  for (;;) {
    length -= consume(length).size();
    if (length == 0) co_return;
    co_await receive_more();
  }
}

}  // namespace tidemark
