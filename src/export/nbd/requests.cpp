// NbdTransmission's requests: each a coroutine that ends with its answer and never fails.
#include <algorithm>

#include "export/nbd/transmission.hpp"
#include "nbd/status.hpp"

namespace tidemark {

namespace flag = nbd::command_flag;

// Writes that must be on stable storage when they are answered.
bool NbdTransmission::durable(const Request& request) const noexcept {
  return (request.flags & flag::fua) || disk_.options().writethrough;
}

Task<> NbdTransmission::read(Request request, Credit credit) {
  PooledBuffer data = pool_.take(static_cast<std::size_t>(request.length));
  const auto done = co_await disk_.disk().read(request.offset, data.bytes()).result();
  if (done) send_data(request, std::move(data), std::move(credit));
  else fail(request, nbd::status_of(done.error()), "read failed", std::move(credit));
}

Task<> NbdTransmission::write(Request request, PooledBuffer data, Credit credit) {
  const WriteFlags flags = durable(request) ? WriteFlags::fua : WriteFlags::none;
  ++changes_;
  const auto done = co_await disk_.disk().write(request.offset, data.bytes(), flags).result();
  ++changes_;
  finish(request, done, "write failed", std::move(credit));
}

Task<> NbdTransmission::flush(Request request, Credit credit) {
  const auto done = co_await make_durable().result();
  finish(request, done, "flush failed", std::move(credit));
}

Task<> NbdTransmission::trim(Request request, Credit credit) {
  const Range range{request.offset, request.length};
  const auto done = co_await discard(range, durable(request)).result();
  finish(request, done, "trim failed", std::move(credit));
}

Task<> NbdTransmission::discard(Range range, bool durable) {
  ++changes_;
  const auto done = co_await disk_.disk().discard(range).result();
  ++changes_;
  co_await unwrap(done);
  if (durable) co_await make_durable();
}

Task<> NbdTransmission::make_durable() {
  LossDebt& debt = disk_.loss_debt();
  const std::uint64_t changes = changes_, number = debt.number();
  std::uint64_t told = told_losses_;
  if (debt.open() && heard_debt_ != number) told = std::min(told, debt.known());
  known_losses_ = std::min(known_losses_, told);
  const auto done = co_await disk_.disk().flush(told).result();
  told_losses_ = std::max(told_losses_, told);
  heard_debt_ = std::max(heard_debt_, number);
  if (done) {
    flushed_ = std::max(flushed_, changes);
    known_losses_ = told_losses_;
    debt.settle(number);
  } else {
    debt.owe(known_losses_);
    heard_debt_ = debt.number();
  }
  co_await unwrap(done);
}

// Who does so in order has heard of what it was told.
void NbdTransmission::leave() noexcept {
  LossDebt& debt = disk_.loss_debt();
  if (takes_leave_ && heard_debt_ == debt.number()) debt.settle(heard_debt_);
  if (changes_ != flushed_) debt.owe_one_gone(takes_leave_ ? told_losses_ : known_losses_);
}

Task<> NbdTransmission::write_zeroes(Request request, Credit credit) {
  const bool fast = (request.flags & flag::fast_zero) != 0;
  WriteFlags flags = WriteFlags::none;
  if (durable(request)) flags = flags | WriteFlags::fua;
  if (!(request.flags & flag::no_hole)) flags = flags | WriteFlags::may_unmap;
  if (fast) flags = flags | WriteFlags::no_fallback;
  const Range range{request.offset, request.length};
  ++changes_;
  const auto done = co_await disk_.disk().write_zeroes(range, flags).result();
  ++changes_;
  if (!done && fast && done.error().code() == Errc::unsupported)
    co_return fail(request, Status::not_supported, "zeroing is not faster than writing",
                   std::move(credit));
  finish(request, done, "write zeroes failed", std::move(credit));
}

Task<> NbdTransmission::cache(Request request, Credit credit) {
  const Range range{request.offset, request.length};
  const auto done = co_await read_through(range).result();
  finish(request, done, "cache failed", std::move(credit));
}

// A hint, dropped when the client has gone.
Task<> NbdTransmission::read_through(Range range) {
  PooledBuffer data = pool_.take(working_memory);
  while (!range.empty() && receiving_) {
    const std::uint64_t part = std::min<std::uint64_t>(range.length, data.size());
    co_await disk_.disk().read(range.offset, data.bytes().first(part));
    range = {range.offset + part, range.length - part};
    co_await socket_.reactor().yield();          // others get their turn
  }
}

// The contexts to answer for; none when the query is malformed or names others than were negotiated.
// A query has the range's length.
std::optional<std::vector<std::uint32_t>> NbdTransmission::chosen_contexts(Request& request,
                                                                           Bytes query) const {
  if (!(request.flags & flag::payload_len)) return agreement_.contexts;
  auto asked = nbd::decode_status_query(query);
  if (!asked || asked->contexts.empty()) return std::nullopt;
  for (std::uint32_t id : asked->contexts)
    if (std::find(agreement_.contexts.begin(), agreement_.contexts.end(), id) ==
        agreement_.contexts.end())
      return std::nullopt;
  request.length = asked->length;
  return std::move(asked->contexts);
}

Task<> NbdTransmission::block_status(Request request, PooledBuffer query, Credit credit) {
  const auto contexts = chosen_contexts(request, query.bytes());
  Verdict verdict{Status::invalid, "invalid block status payload"};
  if (contexts) verdict = check_range(request);
  if (verdict.status != Status::ok)
    co_return fail(request, verdict.status, verdict.reason, std::move(credit));

  // All chunks together stay within what the credit is for.
  const std::size_t extent_size = headers_ == nbd::Headers::extended ? 16 : 8;
  const std::size_t many = working_memory / 2 / extent_size / contexts->size();
  const bool one = (request.flags & flag::req_one) != 0 || many == 0;
  const MetaContext::Query range{
      {request.offset, request.length}, one ? 1 : many, agreement_.block_size};
  for (const std::uint32_t& id : *contexts) {
    const MetaContext& context = disk_.contexts()[id];
    const auto extents = co_await context.extents(disk_.disk(), range, drop_.token()).result();
    if (!extents)
      co_return fail(request, nbd::status_of(extents.error()), "block status failed",
                     std::move(credit));
    const bool last = &id == &contexts->back();
    send_status(request, id, *extents, last, last ? std::move(credit) : Credit());
  }
}

}  // namespace tidemark
