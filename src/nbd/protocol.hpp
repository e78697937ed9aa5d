// The numbers of the NBD protocol: magics, options, commands, flags, errors and limits.
//
// The protocol is NetworkBlockDevice/nbd's doc/proto.md with its extended-headers extension; names
// here are the document's, less their prefix.  Everything on the wire is big-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/units.hpp"

namespace tidemark::nbd {

inline constexpr std::uint64_t server_magic = 0x4e42444d41474943;        // "NBDMAGIC"
inline constexpr std::uint64_t option_magic = 0x49484156454f5054;        // "IHAVEOPT"
inline constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr std::uint32_t request_magic = 0x25609513;
inline constexpr std::uint32_t extended_request_magic = 0x21e41c71;
inline constexpr std::uint32_t simple_reply_magic = 0x67446698;
inline constexpr std::uint32_t structured_reply_magic = 0x668e33ef;
inline constexpr std::uint32_t extended_reply_magic = 0x6e8a278c;

inline constexpr std::size_t string_size_max = 4096;
inline constexpr std::uint32_t payload_size_max = 32 * MiB;   // what every peer should take
inline constexpr std::uint32_t minimum_block_size_max = 64 * KiB;
inline constexpr std::size_t extents_max = 1 << 20;           // of one block status chunk
inline constexpr std::string_view default_port = "10809";

// What the option haggling settled on, each including the ones before it.
enum class Headers : std::uint8_t {
  simple,        // compact requests, simple replies
  structured,    // compact requests, structured chunks wherever a reply has a payload
  extended,      // extended requests and extended chunks only
};

namespace handshake_flag {
inline constexpr std::uint16_t fixed_newstyle = 1 << 0;
inline constexpr std::uint16_t no_zeroes = 1 << 1;
}  // namespace handshake_flag

namespace client_flag {
inline constexpr std::uint32_t fixed_newstyle = 1 << 0;
inline constexpr std::uint32_t no_zeroes = 1 << 1;
}  // namespace client_flag

namespace export_flag {                            // the document's "transmission flags"
inline constexpr std::uint16_t has_flags = 1 << 0;
inline constexpr std::uint16_t read_only = 1 << 1;
inline constexpr std::uint16_t send_flush = 1 << 2;
inline constexpr std::uint16_t send_fua = 1 << 3;
inline constexpr std::uint16_t rotational = 1 << 4;
inline constexpr std::uint16_t send_trim = 1 << 5;
inline constexpr std::uint16_t send_write_zeroes = 1 << 6;
inline constexpr std::uint16_t send_df = 1 << 7;
inline constexpr std::uint16_t can_multi_conn = 1 << 8;
inline constexpr std::uint16_t send_cache = 1 << 10;
inline constexpr std::uint16_t send_fast_zero = 1 << 11;
inline constexpr std::uint16_t block_status_payload = 1 << 12;
}  // namespace export_flag

namespace command_flag {
inline constexpr std::uint16_t fua = 1 << 0;
inline constexpr std::uint16_t no_hole = 1 << 1;
inline constexpr std::uint16_t df = 1 << 2;
inline constexpr std::uint16_t req_one = 1 << 3;
inline constexpr std::uint16_t fast_zero = 1 << 4;
inline constexpr std::uint16_t payload_len = 1 << 5;
}  // namespace command_flag

namespace chunk_flag {
inline constexpr std::uint16_t done = 1 << 0;
}  // namespace chunk_flag

namespace extent_flag {
inline constexpr std::uint32_t hole = 1 << 0;      // base:allocation
inline constexpr std::uint32_t zero = 1 << 1;      // base:allocation
inline constexpr std::uint32_t dirty = 1 << 0;     // qemu:dirty-bitmap:NAME
}  // namespace extent_flag

enum class Option : std::uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

inline constexpr std::uint32_t option_error_bit = std::uint32_t{1} << 31;

enum class OptionReply : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  unsupported = option_error_bit | 1,
  policy = option_error_bit | 2,
  invalid = option_error_bit | 3,
  platform = option_error_bit | 4,
  tls_required = option_error_bit | 5,
  unknown_export = option_error_bit | 6,
  shutdown = option_error_bit | 7,
  block_size_required = option_error_bit | 8,
  too_big = option_error_bit | 9,
  extended_headers_required = option_error_bit | 10,
};

constexpr bool is_error(OptionReply type) noexcept {
  return (static_cast<std::uint32_t>(type) & option_error_bit) != 0;
}

enum class Info : std::uint16_t { export_ = 0, name = 1, description = 2, block_size = 3 };

enum class Command : std::uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

inline constexpr std::uint16_t chunk_error_bit = 1 << 15;

enum class Chunk : std::uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  block_status_ext = 6,
  error = chunk_error_bit | 1,
  error_offset = chunk_error_bit | 2,
};

constexpr bool is_error(Chunk type) noexcept {
  return (static_cast<std::uint16_t>(type) & chunk_error_bit) != 0;
}

// The only values of an error field.
enum class Status : std::uint32_t {
  ok = 0,
  not_permitted = 1,
  io_error = 5,
  no_memory = 12,
  invalid = 22,
  no_space = 28,
  overflow = 75,
  not_supported = 95,
  shutdown = 108,
};

// Metadata contexts: the document's, and QEMU's (its docs/interop/nbd.rst).
inline constexpr std::string_view context_base = "base:";
inline constexpr std::string_view context_allocation = "base:allocation";
inline constexpr std::string_view context_qemu = "qemu:";
inline constexpr std::string_view context_depth = "qemu:allocation-depth";
inline constexpr std::string_view context_dirty_bitmap = "qemu:dirty-bitmap:";

}  // namespace tidemark::nbd
