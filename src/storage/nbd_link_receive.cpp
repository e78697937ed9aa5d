// NbdLink's receiver: replies are parsed out of an inbox; data goes straight to the request's memory.
#include <algorithm>
#include <cstring>

#include "storage/nbd_link.hpp"
#include "storage/nbd_text.hpp"

namespace tidemark {
namespace {

using nbd::Chunk;
using nbd::Command;

// Of chunks without data: they describe one extent, or an error in words.
constexpr std::uint64_t short_payload_max = 16 * KiB;
// Pieces that a read may come in out of order.
constexpr std::size_t pieces_max = 1024;

Error violation(std::string_view what) {
  return Error(Errc::invalid_format, "the server broke the protocol: " + std::string(what), EIO);
}

}  // namespace

Task<> NbdLink::receive() {
  for (;;) co_await receive_reply();
}

Task<> NbdLink::receive_reply() {
  co_await need(sizeof(std::uint32_t));
  const auto magic = load_be<std::uint32_t>(inbox_.data() + begin_);
  const std::size_t size = nbd::reply_header_size(magic, terms_.headers);
  if (size == 0) co_await violation("wrong reply magic");
  co_await need(size);
  const nbd::ReplyHeader reply = nbd::decode_reply_header(take(size).data());
  const Place place = pending_.find(reply.chunk.cookie);
  if (place == pending_.end()) co_await violation("reply to no request");
  if (reply.simple) co_await receive_simple(reply, place);
  else co_await receive_chunk(reply.chunk, place);
}

Task<> NbdLink::receive_simple(const nbd::ReplyHeader& reply, Place place) {
  NbdExchange& exchange = place->second->exchange;
  exchange.error = reply.error;
  const bool wants_payload =
      exchange.command == Command::read || exchange.command == Command::block_status;
  if (wants_payload && reply.error == 0) {
    if (terms_.headers != nbd::Headers::simple) co_await violation("simple reply with a payload");
    co_await take_into(exchange.data);
  }
  finish(place);
}

Task<> NbdLink::receive_chunk(const nbd::ChunkHeader& chunk, Place place) {
  Pending& pending = *place->second;
  const bool last = (chunk.flags & nbd::chunk_flag::done) != 0;
  if (is_error(chunk.type)) {
    co_await receive_error(chunk, pending);
  } else {
    switch (chunk.type) {
      case Chunk::none:
        if (chunk.length != 0 || !last) co_await violation("malformed empty chunk");
        break;
      case Chunk::offset_data: co_await receive_data(chunk, pending); break;
      case Chunk::offset_hole: co_await receive_hole(chunk, pending); break;
      case Chunk::block_status:
      case Chunk::block_status_ext: co_await receive_status(chunk, pending); break;
      default: co_await violation("unknown chunk type");
    }
  }
  if (!last) co_return;
  co_await unwrap(check_complete(pending));
  finish(place);
}

Task<> NbdLink::receive_data(const nbd::ChunkHeader& chunk, Pending& pending) {
  constexpr std::size_t prefix = nbd::offset_data_prefix_size;
  if (chunk.length <= prefix) co_await violation("data chunk without data");
  co_await need(prefix);
  const Range range{load_be<std::uint64_t>(take(prefix).data()), chunk.length - prefix};
  co_await unwrap(cover(pending, range));
  const NbdExchange& exchange = pending.exchange;
  co_await take_into(exchange.data.slice(range.offset - exchange.range.offset, range.length));
}

Task<> NbdLink::receive_hole(const nbd::ChunkHeader& chunk, Pending& pending) {
  const Bytes bytes = co_await payload(chunk);
  const nbd::Hole hole = co_await unwrap(nbd::decode_offset_hole(bytes));
  const Range range{hole.offset, hole.length};
  co_await unwrap(cover(pending, range));
  const NbdExchange& exchange = pending.exchange;
  exchange.data.slice(range.offset - exchange.range.offset, range.length).fill_zero();
}

Task<> NbdLink::receive_status(const nbd::ChunkHeader& chunk, Pending& pending) {
  NbdExchange& exchange = pending.exchange;
  const Bytes bytes = co_await payload(chunk);
  const bool asked = exchange.command == Command::block_status && !exchange.extent &&
                     chunk.type == nbd::status_chunk_type(terms_.headers);
  if (!asked) co_await violation("block status that was not asked for");
  const nbd::StatusChunk status =
      co_await unwrap(nbd::decode_status_chunk(bytes, terms_.headers));
  if (status.context != terms_.allocation) co_await violation("status of another context");
  exchange.extent = status.extents.front();
}

Task<> NbdLink::receive_error(const nbd::ChunkHeader& chunk, Pending& pending) {
  const Bytes bytes = co_await payload(chunk);
  const nbd::ErrorChunk said = co_await unwrap(nbd::decode_error(bytes, chunk.type));
  NbdExchange& exchange = pending.exchange;
  if (exchange.error != 0) co_return;
  exchange.error = said.error;
  exchange.message = nbd_text(as_bytes(said.message));
}

// Notes that `range` of a read has come.
Result<> NbdLink::cover(Pending& pending, Range range) {
  const NbdExchange& exchange = pending.exchange;
  if (exchange.command != Command::read) return violation("data that was not asked for");
  const Range wanted = exchange.range;
  if (range.offset < wanted.offset || !fits(range.offset - wanted.offset, range.length, wanted.length))
    return violation("data outside of what was asked for");
  auto& covered = pending.covered;
  auto after = std::upper_bound(covered.begin(), covered.end(), range.offset,
                                [](std::uint64_t at, Range r) { return at < r.offset; });
  const bool overlaps = (after != covered.end() && after->overlaps(range)) ||
                        (after != covered.begin() && std::prev(after)->overlaps(range));
  if (overlaps) return violation("data sent twice");
  if (after != covered.begin() && std::prev(after)->end() == range.offset) {
    std::prev(after)->length += range.length;
    if (after != covered.end() && after->offset == range.end()) {
      std::prev(after)->length += after->length;
      covered.erase(after);
    }
  } else if (after != covered.end() && after->offset == range.end()) {
    *after = {range.offset, range.length + after->length};
  } else {
    if (covered.size() == pieces_max) return violation("a read in too many pieces");
    covered.insert(after, range);
  }
  return {};
}

Result<> NbdLink::check_complete(const Pending& pending) const {
  const NbdExchange& exchange = pending.exchange;
  if (exchange.error != 0) return {};
  if (exchange.command == Command::read &&
      (pending.covered.size() != 1 || pending.covered.front() != exchange.range))
    return violation("a read without all of its data");
  if (exchange.command == Command::block_status && !exchange.extent)
    return violation("no block status");
  return {};
}

void NbdLink::finish(Place place) noexcept {
  Pending& pending = *place->second;
  pending_.erase(place);
  pending.done.set();
}

Task<> NbdLink::need(std::size_t size) {
  if (end_ - begin_ >= size) co_return;
  std::memmove(inbox_.data(), inbox_.data() + begin_, end_ - begin_);
  end_ -= std::exchange(begin_, 0);
  while (end_ < size) {
    const std::size_t got = co_await socket_.recv_some(inbox_.bytes().subspan(end_), stop_.token());
    if (got == 0) co_await Error(Errc::disconnected, "the server closed the connection");
    end_ += got;
  }
}

Bytes NbdLink::take(std::size_t size) noexcept {
  TM_ASSERT(size <= end_ - begin_);
  return {inbox_.data() + std::exchange(begin_, begin_ + size), size};
}

Task<> NbdLink::take_into(Buffers into) {
  const std::size_t here = std::min(end_ - begin_, into.size());
  into.first(here).copy_from(take(here));
  co_await socket_.recv_all(into.from(here), stop_.token());
}

Task<Bytes> NbdLink::payload(const nbd::ChunkHeader& chunk) {
  if (chunk.length > short_payload_max) co_await violation("chunk too long");
  co_await need(chunk.length);
  co_return take(chunk.length);
}

}  // namespace tidemark
