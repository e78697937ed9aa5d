// NbdTransmission's answers, in the form that was negotiated.
#include "export/nbd/transmission.hpp"
#include "nbd/status.hpp"

namespace tidemark {
namespace {

using nbd::Chunk;
using nbd::Command;
using nbd::Headers;

// Zeroes are looked for in pieces of this size, at multiples of it.
constexpr std::uint64_t piece_size = 64 * KiB;

// The longest part of `data`, which is at `offset`, from its start that is zero throughout, or where
// each piece holds something.
struct Part {
  std::size_t size;
  bool zero;
};
Part first_part(Bytes data, std::uint64_t offset) {
  if (data.size() <= piece_size) return {data.size(), is_zero(data)};
  Part part{0, false};
  while (part.size < data.size()) {
    const std::uint64_t at = offset + part.size;
    const std::uint64_t piece = std::min<std::uint64_t>(align_down(at, piece_size) + piece_size - at,
                                                        data.size() - part.size);
    const bool zero = is_zero(data.subspan(part.size, piece));
    if (part.size == 0) part.zero = zero;
    else if (zero != part.zero) break;
    part.size += piece;
  }
  return part;
}

}  // namespace

// The header of a chunk; the caller appends what else belongs into the head.
void NbdTransmission::put_chunk(NbdReply& reply, const Request& request, Chunk type, bool last,
                                std::uint64_t payload) const noexcept {
  nbd::ChunkHeader chunk;
  chunk.flags = last ? nbd::chunk_flag::done : std::uint16_t{0};
  chunk.type = type;
  chunk.cookie = request.cookie;
  chunk.offset = request.offset;
  chunk.length = payload;
  reply.head_size = nbd::encode_chunk_header(reply.head.data(), headers_, chunk);
}

void NbdTransmission::succeed(const Request& request, Credit credit) {
  NbdReply reply;
  reply.credit = std::move(credit);
  // With structured replies a simple one is allowed where there is no payload, except to a read.
  const bool simple = headers_ == Headers::simple ||
                      (headers_ == Headers::structured && request.command != Command::read);
  if (simple) {
    nbd::encode_simple_reply(reply.head.data(), Status::ok, request.cookie);
    reply.head_size = nbd::simple_reply_size;
  } else {
    put_chunk(reply, request, Chunk::none, true, 0);
  }
  replies_.push(std::move(reply));
}

void NbdTransmission::fail(const Request& request, Status status, std::string_view reason,
                           Credit credit) {
  NbdReply reply;
  reply.credit = std::move(credit);
  if (headers_ == Headers::simple) {
    nbd::encode_simple_reply(reply.head.data(), status, request.cookie);
    reply.head_size = nbd::simple_reply_size;
  } else {
    put_chunk(reply, request, Chunk::error, true, nbd::error_prefix_size + reason.size());
    nbd::encode_error(reply.head.data() + reply.head_size, status, reason.size());
    reply.head_size += nbd::error_prefix_size;
    reply.body = as_bytes(reason);
  }
  replies_.push(std::move(reply));
}

void NbdTransmission::finish(const Request& request, const Result<>& outcome,
                             std::string_view failure, Credit credit) {
  if (outcome) succeed(request, std::move(credit));
  else fail(request, nbd::status_of(outcome.error()), failure, std::move(credit));
}

// Data that was read.  With structured replies, long runs of zeroes are sent as holes: looking for
// them costs next to nothing where there are none.
void NbdTransmission::send_data(const Request& request, PooledBuffer data, Credit credit) {
  if (data.size() == 0) return succeed(request, std::move(credit));
  NbdReply last;
  Bytes left = data.bytes();
  last.buffer = std::move(data);
  last.credit = std::move(credit);
  if (headers_ == Headers::simple) {
    nbd::encode_simple_reply(last.head.data(), Status::ok, request.cookie);
    last.head_size = nbd::simple_reply_size;
    last.body = left;
    return replies_.push(std::move(last));
  }
  std::uint64_t at = request.offset;
  const bool whole = (request.flags & nbd::command_flag::df) != 0;
  for (;;) {
    const Part part = whole ? Part{left.size(), false} : first_part(left, at);
    const bool is_last = part.size == left.size();
    const Bytes content = part.zero ? Bytes() : left.first(part.size);
    // What the parts are in goes when the last of them is sent.
    send_part(request, {at, part.size}, content, is_last, is_last ? std::move(last) : NbdReply());
    if (is_last) return;
    at += part.size;
    left = left.subspan(part.size);
  }
}

// One chunk of data, or of a hole when there is none.
void NbdTransmission::send_part(const Request& request, Range part, Bytes data, bool is_last,
                                NbdReply reply) {
  if (data.empty()) {
    put_chunk(reply, request, Chunk::offset_hole, is_last, nbd::offset_hole_size);
    const nbd::Hole hole{part.offset, static_cast<std::uint32_t>(part.length)};
    nbd::encode_offset_hole(reply.head.data() + reply.head_size, hole);
    reply.head_size += nbd::offset_hole_size;
  } else {
    const std::uint64_t payload = nbd::offset_data_prefix_size + data.size();
    put_chunk(reply, request, Chunk::offset_data, is_last, payload);
    store_be(reply.head.data() + reply.head_size, part.offset);
    reply.head_size += nbd::offset_data_prefix_size;
    reply.body = data;
  }
  replies_.push(std::move(reply));
}

void NbdTransmission::send_status(const Request& request, std::uint32_t context,
                                  std::span<const nbd::Extent> extents, bool last,
                                  Credit credit) {
  NbdReply reply;
  reply.credit = std::move(credit);
  const std::size_t size = nbd::status_payload_size(extents.size(), headers_);
  put_chunk(reply, request, nbd::status_chunk_type(headers_), last, size);
  reply.buffer = pool_.take(size);
  nbd::encode_status_chunk(reply.buffer.data(), headers_, context, extents);
  reply.body = reply.buffer.bytes();
  replies_.push(std::move(reply));
}

}  // namespace tidemark
