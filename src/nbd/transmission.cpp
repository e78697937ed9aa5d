#include "nbd/transmission.hpp"

#include <algorithm>

#include "nbd/wire.hpp"

namespace tidemark::nbd {
namespace {

Error malformed(std::string_view what, std::string_view why) {
  return Error(Errc::invalid_format, std::string(what) + ": " + std::string(why));
}

}  // namespace

void encode_request(std::byte* to, Headers headers, const Request& request) noexcept {
  const bool extended = headers == Headers::extended;
  store_be(to, extended ? extended_request_magic : request_magic);
  store_be(to + 4, request.flags);
  store_be(to + 6, static_cast<std::uint16_t>(request.command));
  store_be(to + 8, request.cookie);
  store_be(to + 16, request.offset);
  TM_ASSERT(extended || request.length <= UINT32_MAX);
  if (extended) store_be(to + 24, request.length);
  else store_be(to + 24, static_cast<std::uint32_t>(request.length));
}

std::optional<Request> decode_request(const std::byte* from, Headers headers) noexcept {
  const bool extended = headers == Headers::extended;
  if (load_be<std::uint32_t>(from) != (extended ? extended_request_magic : request_magic))
    return std::nullopt;
  Request request;
  request.flags = load_be<std::uint16_t>(from + 4);
  request.command = static_cast<Command>(load_be<std::uint16_t>(from + 6));
  request.cookie = load_be<std::uint64_t>(from + 8);
  request.offset = load_be<std::uint64_t>(from + 16);
  request.length = extended ? load_be<std::uint64_t>(from + 24) : load_be<std::uint32_t>(from + 24);
  return request;
}

void encode_status_query(std::vector<std::byte>& out, const StatusQuery& query) {
  WireWriter w(out);
  w.u64(query.length);
  for (std::uint32_t context : query.contexts) w.u32(context);
}

Result<StatusQuery> decode_status_query(Bytes payload) {
  constexpr std::string_view what = "block status payload";
  WireReader in(payload);
  StatusQuery query;
  query.length = in.u64();
  if (!in.ok() || in.left() % 4 != 0) return malformed(what, "wrong length");
  query.contexts.reserve(in.left() / 4);
  while (in.left() != 0) query.contexts.push_back(in.u32());
  std::vector<std::uint32_t> sorted = query.contexts;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    return malformed(what, "duplicate context");
  return query;
}

void encode_simple_reply(std::byte* to, Status status, std::uint64_t cookie) noexcept {
  store_be(to, simple_reply_magic);
  store_be(to + 4, static_cast<std::uint32_t>(status));
  store_be(to + 8, cookie);
}

std::size_t encode_chunk_header(std::byte* to, Headers headers, const ChunkHeader& chunk) noexcept {
  const bool extended = headers == Headers::extended;
  store_be(to, extended ? extended_reply_magic : structured_reply_magic);
  store_be(to + 4, chunk.flags);
  store_be(to + 6, static_cast<std::uint16_t>(chunk.type));
  store_be(to + 8, chunk.cookie);
  if (extended) {
    store_be(to + 16, chunk.offset);
    store_be(to + 24, chunk.length);
  } else {
    TM_ASSERT(chunk.length <= UINT32_MAX);
    store_be(to + 16, static_cast<std::uint32_t>(chunk.length));
  }
  return chunk_header_size(headers);
}

std::size_t reply_header_size(std::uint32_t magic, Headers headers) noexcept {
  switch (magic) {
    case simple_reply_magic: return headers == Headers::extended ? 0 : simple_reply_size;
    case structured_reply_magic:
      return headers == Headers::structured ? chunk_header_size(headers) : 0;
    case extended_reply_magic: return headers == Headers::extended ? chunk_header_size(headers) : 0;
    default: return 0;
  }
}

ReplyHeader decode_reply_header(const std::byte* from) noexcept {
  ReplyHeader reply;
  const auto magic = load_be<std::uint32_t>(from);
  reply.simple = magic == simple_reply_magic;
  reply.chunk.cookie = load_be<std::uint64_t>(from + 8);
  if (reply.simple) {
    reply.error = load_be<std::uint32_t>(from + 4);
    return reply;
  }
  reply.chunk.flags = load_be<std::uint16_t>(from + 4);
  reply.chunk.type = static_cast<Chunk>(load_be<std::uint16_t>(from + 6));
  if (magic == extended_reply_magic) {
    reply.chunk.offset = load_be<std::uint64_t>(from + 16);
    reply.chunk.length = load_be<std::uint64_t>(from + 24);
  } else {
    reply.chunk.length = load_be<std::uint32_t>(from + 16);
  }
  return reply;
}

void encode_offset_hole(std::byte* to, Hole hole) noexcept {
  store_be(to, hole.offset);
  store_be(to + 8, hole.length);
}

Result<Hole> decode_offset_hole(Bytes payload) {
  WireReader in(payload);
  Hole hole;
  hole.offset = in.u64();
  hole.length = in.u32();
  if (!in.done()) return malformed("hole chunk", "wrong length");
  if (hole.length == 0) return malformed("hole chunk", "empty hole");
  return hole;
}

void encode_status_chunk(std::byte* to, Headers headers, std::uint32_t context,
                         std::span<const Extent> extents) noexcept {
  TM_ASSERT(extents.size() <= extents_max);
  store_be(to, context);
  to += 4;
  if (headers == Headers::extended) {
    store_be(to, static_cast<std::uint32_t>(extents.size()));
    to += 4;
    for (const Extent& extent : extents) {
      store_be(to, extent.length);
      store_be(to + 8, extent.flags);
      to += 16;
    }
    return;
  }
  for (const Extent& extent : extents) {
    TM_ASSERT(extent.length <= UINT32_MAX && extent.flags <= UINT32_MAX);
    store_be(to, static_cast<std::uint32_t>(extent.length));
    store_be(to + 4, static_cast<std::uint32_t>(extent.flags));
    to += 8;
  }
}

Result<StatusChunk> decode_status_chunk(Bytes payload, Headers headers) {
  constexpr std::string_view what = "block status chunk";
  const bool extended = headers == Headers::extended;
  const std::size_t extent_size = extended ? 16 : 8;
  WireReader in(payload);
  StatusChunk chunk;
  chunk.context = in.u32();
  const std::size_t count = extended ? in.u32() : in.left() / extent_size;
  if (!in.ok() || count == 0 || in.left() % extent_size != 0 || count != in.left() / extent_size)
    return malformed(what, "wrong length");
  if (count > extents_max) return malformed(what, "too many extents");
  chunk.extents.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t length = extended ? in.u64() : in.u32();
    const std::uint64_t flags = extended ? in.u64() : in.u32();
    if (length == 0) return malformed(what, "empty extent");
    chunk.extents.push_back({length, flags});
  }
  return chunk;
}

void encode_error(std::byte* to, Status status, std::size_t message_size) noexcept {
  TM_ASSERT(status != Status::ok && message_size <= string_size_max);
  store_be(to, static_cast<std::uint32_t>(status));
  store_be(to + 4, static_cast<std::uint16_t>(message_size));
}

Result<ErrorChunk> decode_error(Bytes payload, Chunk type) {
  constexpr std::string_view what = "error chunk";
  WireReader in(payload);
  ErrorChunk chunk;
  chunk.error = in.u32();
  const std::size_t size = in.u16();
  const std::string_view message = in.text(size);
  if (type == Chunk::error_offset) chunk.offset = in.u64();
  const bool known = type == Chunk::error || type == Chunk::error_offset;
  if (known ? !in.done() : !in.ok()) return malformed(what, "wrong length");
  if (chunk.error == 0) return malformed(what, "no error");
  if (message.size() > string_size_max) return malformed(what, "message too long");
  chunk.message = message;
  return chunk;
}

}  // namespace tidemark::nbd
