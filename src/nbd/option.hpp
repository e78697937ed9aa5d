// The handshake: greeting, options and their replies, as structs and as bytes.
//
// decode_*() take exactly one message's payload, of any content, and return an Error of
// Errc::invalid_format that names what is wrong with it; a value that comes back is within the
// document's limits.  encode_*() append to `out`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "nbd/protocol.hpp"

namespace tidemark::nbd {

using Message = std::vector<std::byte>;

// Server's first message: handshake flags (fixed newstyle; an oldstyle or foreign server is an error).
inline constexpr std::size_t greeting_size = 18;
void encode_greeting(Message& out, std::uint16_t handshake_flags);
Result<std::uint16_t> decode_greeting(Bytes greeting);

inline constexpr std::size_t client_flags_size = 4;

struct OptionHeader {
  Option option{};
  std::uint32_t length = 0;               // of the data that follows; not checked
  friend bool operator==(const OptionHeader&, const OptionHeader&) = default;
};
inline constexpr std::size_t option_header_size = 16;
void encode_option_header(Message& out, OptionHeader header);
Result<OptionHeader> decode_option_header(Bytes header);

// Data of `info` and `go`.
struct InfoRequest {
  std::string name;
  std::vector<Info> infos;                // unknown ones included
  friend bool operator==(const InfoRequest&, const InfoRequest&) = default;
};
void encode_info_request(Message& out, const InfoRequest& request);
Result<InfoRequest> decode_info_request(Bytes data);

// Data of `list_meta_context` and `set_meta_context`.
struct ContextRequest {
  std::string name;                       // of the export
  std::vector<std::string> queries;
  friend bool operator==(const ContextRequest&, const ContextRequest&) = default;
};
void encode_context_request(Message& out, const ContextRequest& request);
Result<ContextRequest> decode_context_request(Bytes data);

// Data of `export_name`, and every other string of the protocol.
Result<void> check_string(std::string_view text);

struct OptionReplyHeader {
  Option option{};
  OptionReply type{};
  std::uint32_t length = 0;
  friend bool operator==(const OptionReplyHeader&, const OptionReplyHeader&) = default;
};
inline constexpr std::size_t option_reply_header_size = 20;
void encode_option_reply_header(Message& out, OptionReplyHeader header);
Result<OptionReplyHeader> decode_option_reply_header(Bytes header);

// A whole reply: `ack` without text, or an error with a text for people (cut to the limit).
void encode_option_reply(Message& out, Option option, OptionReply type, std::string_view text = {});

// What the server says about an export at the end of `export_name`, and in Info::export_.
struct ExportInfo {
  std::uint64_t size = 0;
  std::uint16_t flags = 0;                // export_flag
  friend bool operator==(const ExportInfo&, const ExportInfo&) = default;
};
inline constexpr std::size_t export_info_size = 10;
inline constexpr std::size_t export_padding_size = 124;    // unless no_zeroes was agreed on
void encode_export_name_reply(Message& out, ExportInfo info, bool no_zeroes);
Result<ExportInfo> decode_export_name_reply(Bytes reply);  // without the padding

struct BlockSizes {
  std::uint32_t minimum = 1;
  std::uint32_t preferred = 4096;
  std::uint32_t maximum_payload = payload_size_max;
  friend bool operator==(const BlockSizes&, const BlockSizes&) = default;
};

struct ServerReply {
  std::string name, description;
  friend bool operator==(const ServerReply&, const ServerReply&) = default;
};
void encode_server_reply(Message& out, const ServerReply& reply);
Result<ServerReply> decode_server_reply(Bytes data);

void encode_info_export(Message& out, Option option, ExportInfo info);
void encode_info_text(Message& out, Option option, Info kind, std::string_view text);
void encode_info_block_sizes(Message& out, Option option, BlockSizes sizes);

struct InfoReply {
  Info kind{};                            // an unknown one comes with nothing else set
  ExportInfo export_info;
  std::string text;                       // of name and description
  BlockSizes sizes;
};
Result<InfoReply> decode_info_reply(Bytes data);

struct ContextReply {
  std::uint32_t id = 0;
  std::string name;
  friend bool operator==(const ContextReply&, const ContextReply&) = default;
};
void encode_context_reply(Message& out, Option option, const ContextReply& reply);
Result<ContextReply> decode_context_reply(Bytes data);

}  // namespace tidemark::nbd
