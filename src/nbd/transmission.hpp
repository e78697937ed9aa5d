// The transmission phase: requests, replies and chunks, as structs and as bytes.
//
// Headers have fixed sizes and are written to and read from memory of that size: a server codes
// thousands of them a second.  Payloads are decoded strictly: what comes back obeys the document, all
// else is an Error of Errc::invalid_format.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "nbd/protocol.hpp"

namespace tidemark::nbd {

struct Request {
  std::uint16_t flags = 0;                 // command_flag; unknown ones included
  Command command{};                       // unknown ones included
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;                // of the effect, or of the payload: see payload_length()
  friend bool operator==(const Request&, const Request&) = default;
};

constexpr std::size_t request_size(Headers headers) noexcept {
  return headers == Headers::extended ? 32 : 28;
}

// How many bytes of payload follow the header.
constexpr std::uint64_t payload_length(const Request& request, Headers headers) noexcept {
  const bool has = headers == Headers::extended ? (request.flags & command_flag::payload_len) != 0
                                                : request.command == Command::write;
  return has ? request.length : 0;
}

// `to` and `from` are of request_size(headers).  None when the magic is wrong: the stream is lost.
void encode_request(std::byte* to, Headers headers, const Request& request) noexcept;
std::optional<Request> decode_request(const std::byte* from, Headers headers) noexcept;

// Payload of Command::block_status with payload_len: which contexts to answer for.
struct StatusQuery {
  std::uint64_t length = 0;                // of the effect
  std::vector<std::uint32_t> contexts;     // no duplicates
  friend bool operator==(const StatusQuery&, const StatusQuery&) = default;
};
void encode_status_query(std::vector<std::byte>& out, const StatusQuery& query);
Result<StatusQuery> decode_status_query(Bytes payload);

inline constexpr std::size_t simple_reply_size = 16;
inline constexpr std::size_t reply_header_size_max = 32;

struct ChunkHeader {
  std::uint16_t flags = 0;                 // chunk_flag
  Chunk type{};
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;                // of the request; extended headers only
  std::uint64_t length = 0;                // of the payload
  friend bool operator==(const ChunkHeader&, const ChunkHeader&) = default;
};

constexpr std::size_t chunk_header_size(Headers headers) noexcept {
  return headers == Headers::extended ? 32 : 20;
}

void encode_simple_reply(std::byte* to, Status status, std::uint64_t cookie) noexcept;
// Not for Headers::simple.  Returns chunk_header_size(headers).
std::size_t encode_chunk_header(std::byte* to, Headers headers, const ChunkHeader& chunk) noexcept;

// A client reads 4 bytes to learn the header's size, 0 for a magic that `headers` does not allow,
// then decodes the whole.
std::size_t reply_header_size(std::uint32_t magic, Headers headers) noexcept;
struct ReplyHeader {
  bool simple = false;
  std::uint32_t error = 0;                 // simple
  ChunkHeader chunk;                       // otherwise; of a simple one only the cookie
};
ReplyHeader decode_reply_header(const std::byte* from) noexcept;

// Chunk::offset_data: 8 bytes of offset, then the data.
inline constexpr std::size_t offset_data_prefix_size = 8;

// Chunk::offset_hole.
struct Hole {
  std::uint64_t offset = 0;
  std::uint32_t length = 0;
  friend bool operator==(const Hole&, const Hole&) = default;
};
inline constexpr std::size_t offset_hole_size = 12;
void encode_offset_hole(std::byte* to, Hole hole) noexcept;
Result<Hole> decode_offset_hole(Bytes payload);

// Chunk::block_status and Chunk::block_status_ext.
struct Extent {
  std::uint64_t length = 0;
  std::uint64_t flags = 0;
  friend bool operator==(const Extent&, const Extent&) = default;
};
struct StatusChunk {
  std::uint32_t context = 0;
  std::vector<Extent> extents;
  friend bool operator==(const StatusChunk&, const StatusChunk&) = default;
};
constexpr std::size_t status_payload_size(std::size_t extents, Headers headers) noexcept {
  return headers == Headers::extended ? 8 + extents * 16 : 4 + extents * 8;
}
constexpr Chunk status_chunk_type(Headers headers) noexcept {
  return headers == Headers::extended ? Chunk::block_status_ext : Chunk::block_status;
}
// The payload into memory of status_payload_size().  Lengths and flags fit the 32 bits of
// Chunk::block_status (asserted).
void encode_status_chunk(std::byte* to, Headers headers, std::uint32_t context,
                         std::span<const Extent> extents) noexcept;
Result<StatusChunk> decode_status_chunk(Bytes payload, Headers headers);

// Chunk::error and Chunk::error_offset, and the readable part of error chunks yet unknown.
struct ErrorChunk {
  std::uint32_t error = 0;                 // never 0
  std::string message;
  std::optional<std::uint64_t> offset;     // Chunk::error_offset
  friend bool operator==(const ErrorChunk&, const ErrorChunk&) = default;
};
inline constexpr std::size_t error_prefix_size = 6;
// Chunk::error's payload up to its message, which is at most string_size_max long and follows.
void encode_error(std::byte* to, Status status, std::size_t message_size) noexcept;
Result<ErrorChunk> decode_error(Bytes payload, Chunk type);

}  // namespace tidemark::nbd
