#include "nbd/option.hpp"

#include <algorithm>

#include "nbd/wire.hpp"

namespace tidemark::nbd {
namespace {

Error malformed(std::string_view what, std::string_view why) {
  return Error(Errc::invalid_format, std::string(what) + ": " + std::string(why));
}

Error wrong_length(std::string_view what) { return malformed(what, "wrong length"); }

std::uint32_t size32(std::size_t size) {
  TM_ASSERT(size <= UINT32_MAX);
  return static_cast<std::uint32_t>(size);
}

// A counted string, checked.
Result<std::string> take_string(WireReader& in, std::string_view what) {
  const std::string_view text = in.text(in.u32());
  if (!in.ok()) return wrong_length(what);
  if (auto good = check_string(text); !good) return good.error().with_context(what);
  return std::string(text);
}

void put_string(WireWriter& out, std::string_view text) {
  out.u32(size32(text.size()));
  out.text(text);
}

}  // namespace

Result<void> check_string(std::string_view text) {
  if (text.size() > string_size_max) return Error(Errc::invalid_format, "string too long");
  if (text.find('\0') != text.npos) return Error(Errc::invalid_format, "string contains NUL");
  return {};
}

void encode_greeting(Message& out, std::uint16_t handshake_flags) {
  WireWriter w(out);
  w.u64(server_magic);
  w.u64(option_magic);
  w.u16(handshake_flags);
}

Result<std::uint16_t> decode_greeting(Bytes greeting) {
  constexpr std::string_view what = "server greeting";
  WireReader in(greeting);
  if (in.u64() != server_magic) return malformed(what, "not an NBD server");
  if (in.u64() != option_magic) return malformed(what, "oldstyle negotiation is not supported");
  const std::uint16_t flags = in.u16();
  if (!in.done()) return wrong_length(what);
  if (!(flags & handshake_flag::fixed_newstyle))
    return malformed(what, "server lacks fixed newstyle negotiation");
  return flags;
}

void encode_option_header(Message& out, OptionHeader header) {
  WireWriter w(out);
  w.u64(option_magic);
  w.u32(static_cast<std::uint32_t>(header.option));
  w.u32(header.length);
}

Result<OptionHeader> decode_option_header(Bytes header) {
  WireReader in(header);
  if (in.u64() != option_magic) return malformed("option", "wrong magic");
  OptionHeader decoded;
  decoded.option = static_cast<Option>(in.u32());
  decoded.length = in.u32();
  if (!in.done()) return wrong_length("option");
  return decoded;
}

void encode_info_request(Message& out, const InfoRequest& request) {
  TM_ASSERT(request.infos.size() <= UINT16_MAX);
  WireWriter w(out);
  put_string(w, request.name);
  w.u16(static_cast<std::uint16_t>(request.infos.size()));
  for (Info info : request.infos) w.u16(static_cast<std::uint16_t>(info));
}

Result<InfoRequest> decode_info_request(Bytes data) {
  WireReader in(data);
  auto name = take_string(in, "export name");
  if (!name) return name.error();
  const std::size_t count = in.u16();
  if (!in.ok() || in.left() != count * 2) return wrong_length("information requests");
  InfoRequest request{*std::move(name), {}};
  request.infos.reserve(count);
  for (std::size_t i = 0; i < count; ++i) request.infos.push_back(static_cast<Info>(in.u16()));
  return request;
}

void encode_context_request(Message& out, const ContextRequest& request) {
  WireWriter w(out);
  put_string(w, request.name);
  w.u32(size32(request.queries.size()));
  for (const std::string& query : request.queries) put_string(w, query);
}

Result<ContextRequest> decode_context_request(Bytes data) {
  WireReader in(data);
  auto name = take_string(in, "export name");
  if (!name) return name.error();
  const std::uint32_t count = in.u32();
  // Each query takes at least its length field.
  if (!in.ok() || count > in.left() / 4) return wrong_length("metadata queries");
  ContextRequest request{*std::move(name), {}};
  request.queries.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    auto query = take_string(in, "metadata query");
    if (!query) return query.error();
    request.queries.push_back(*std::move(query));
  }
  if (!in.done()) return wrong_length("metadata queries");
  return request;
}

void encode_option_reply_header(Message& out, OptionReplyHeader header) {
  WireWriter w(out);
  w.u64(option_reply_magic);
  w.u32(static_cast<std::uint32_t>(header.option));
  w.u32(static_cast<std::uint32_t>(header.type));
  w.u32(header.length);
}

Result<OptionReplyHeader> decode_option_reply_header(Bytes header) {
  WireReader in(header);
  if (in.u64() != option_reply_magic) return malformed("option reply", "wrong magic");
  OptionReplyHeader decoded;
  decoded.option = static_cast<Option>(in.u32());
  decoded.type = static_cast<OptionReply>(in.u32());
  decoded.length = in.u32();
  if (!in.done()) return wrong_length("option reply");
  return decoded;
}

void encode_option_reply(Message& out, Option option, OptionReply type, std::string_view text) {
  text = text.substr(0, string_size_max);
  encode_option_reply_header(out, {option, type, size32(text.size())});
  WireWriter(out).text(text);
}

void encode_export_name_reply(Message& out, ExportInfo info, bool no_zeroes) {
  WireWriter w(out);
  w.u64(info.size);
  w.u16(info.flags);
  if (!no_zeroes) w.zeroes(export_padding_size);
}

namespace {

Result<ExportInfo> take_export_info(WireReader& in) {
  ExportInfo info;
  info.size = in.u64();
  info.flags = in.u16();
  if (!in.done()) return wrong_length("export information");
  if (info.size > max_disk_size) return malformed("export information", "size out of range");
  if (!(info.flags & export_flag::has_flags)) return malformed("export information", "no flags");
  return info;
}

Result<BlockSizes> take_block_sizes(WireReader& in) {
  constexpr std::string_view what = "block sizes";
  BlockSizes sizes;
  sizes.minimum = in.u32();
  sizes.preferred = in.u32();
  sizes.maximum_payload = in.u32();
  if (!in.done()) return wrong_length(what);
  if (!is_power_of_two(sizes.minimum) || sizes.minimum > minimum_block_size_max)
    return malformed(what, "minimum out of range");
  if (!is_power_of_two(sizes.preferred) || sizes.preferred < std::max(sizes.minimum, 512u))
    return malformed(what, "preferred size out of range");
  if (sizes.maximum_payload < sizes.preferred) return malformed(what, "maximum out of range");
  return sizes;
}

}  // namespace

Result<ExportInfo> decode_export_name_reply(Bytes reply) {
  WireReader in(reply);
  return take_export_info(in);
}

void encode_server_reply(Message& out, const ServerReply& reply) {
  const std::size_t length = 4 + reply.name.size() + reply.description.size();
  encode_option_reply_header(out, {Option::list, OptionReply::server, size32(length)});
  WireWriter w(out);
  put_string(w, reply.name);
  w.text(reply.description);
}

Result<ServerReply> decode_server_reply(Bytes data) {
  WireReader in(data);
  auto name = take_string(in, "export name");
  if (!name) return name.error();
  ServerReply reply{*std::move(name), std::string(in.rest())};
  if (auto good = check_string(reply.description); !good)
    return good.error().with_context("export description");
  return reply;
}

void encode_info_export(Message& out, Option option, ExportInfo info) {
  encode_option_reply_header(out, {option, OptionReply::info, 2 + export_info_size});
  WireWriter w(out);
  w.u16(static_cast<std::uint16_t>(Info::export_));
  w.u64(info.size);
  w.u16(info.flags);
}

void encode_info_text(Message& out, Option option, Info kind, std::string_view text) {
  encode_option_reply_header(out, {option, OptionReply::info, size32(2 + text.size())});
  WireWriter w(out);
  w.u16(static_cast<std::uint16_t>(kind));
  w.text(text);
}

void encode_info_block_sizes(Message& out, Option option, BlockSizes sizes) {
  encode_option_reply_header(out, {option, OptionReply::info, 2 + 12});
  WireWriter w(out);
  w.u16(static_cast<std::uint16_t>(Info::block_size));
  w.u32(sizes.minimum);
  w.u32(sizes.preferred);
  w.u32(sizes.maximum_payload);
}

Result<InfoReply> decode_info_reply(Bytes data) {
  WireReader in(data);
  InfoReply reply;
  reply.kind = static_cast<Info>(in.u16());
  if (!in.ok()) return wrong_length("information reply");
  switch (reply.kind) {
    case Info::export_: {
      auto info = take_export_info(in);
      if (!info) return info.error();
      reply.export_info = *info;
      break;
    }
    case Info::name:
    case Info::description: {
      reply.text = in.rest();
      if (auto good = check_string(reply.text); !good)
        return good.error().with_context("information reply");
      break;
    }
    case Info::block_size: {
      auto sizes = take_block_sizes(in);
      if (!sizes) return sizes.error();
      reply.sizes = *sizes;
      break;
    }
  }
  return reply;
}

void encode_context_reply(Message& out, Option option, const ContextReply& reply) {
  encode_option_reply_header(
      out, {option, OptionReply::meta_context, size32(4 + reply.name.size())});
  WireWriter w(out);
  w.u32(reply.id);
  w.text(reply.name);
}

Result<ContextReply> decode_context_reply(Bytes data) {
  WireReader in(data);
  ContextReply reply;
  reply.id = in.u32();
  if (!in.ok()) return wrong_length("metadata context");
  reply.name = in.rest();
  if (auto good = check_string(reply.name); !good)
    return good.error().with_context("metadata context");
  return reply;
}

}  // namespace tidemark::nbd
