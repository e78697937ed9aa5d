#include "storage/nbd_handshake.hpp"

#include <cerrno>

#include "storage/nbd_text.hpp"

namespace tidemark {
namespace {

using nbd::Option;
using nbd::OptionReply;

constexpr std::uint32_t reply_size_max = 64 * KiB;
constexpr unsigned replies_max = 64;  // to one option

Error refused(std::string why) { return Error(Errc::invalid_format, std::move(why)); }

struct Reply {
  OptionReply type{};
  nbd::Message data;
};

class Handshake {
 public:
  Handshake(Socket& socket, std::string name, CancelToken token)
      : socket_(socket), name_(std::move(name)), token_(token) {}

  Task<NbdTerms> run() {
    co_await greet();
    co_await choose_headers();
    if (terms_.headers != nbd::Headers::simple) co_await choose_context();
    const bool entered = co_await go();
    if (!entered) co_await export_name();
    co_return terms_;
  }

 private:
  Task<> greet() {
    std::byte greeting[nbd::greeting_size];
    co_await socket_.recv_all(MutableBytes(greeting), token_);
    const std::uint16_t flags = co_await unwrap(nbd::decode_greeting(greeting));
    no_zeroes_ = (flags & nbd::handshake_flag::no_zeroes) != 0;
    std::byte answer[nbd::client_flags_size];
    store_be(answer, nbd::client_flag::fixed_newstyle | (no_zeroes_ ? nbd::client_flag::no_zeroes : 0u));
    co_await socket_.send_all(Buffers::of_const(answer), token_);
  }

  Task<> send(Option option, Bytes data = {}) {
    nbd::Message message;
    nbd::encode_option_header(message, {option, static_cast<std::uint32_t>(data.size())});
    message.insert(message.end(), data.begin(), data.end());
    asked_ = option;
    replies_ = 0;
    co_await socket_.send_all(Buffers::of_const(message), token_);
  }

  Task<Reply> receive() {
    std::byte bytes[nbd::option_reply_header_size];
    co_await socket_.recv_all(MutableBytes(bytes), token_);
    const auto header = co_await unwrap(nbd::decode_option_reply_header(bytes));
    if (header.option != asked_) co_await refused("reply to an option that was not asked for");
    if (header.length > reply_size_max) co_await refused("option reply too long");
    if (++replies_ > replies_max) co_await refused("too many replies to an option");
    Reply reply{header.type, nbd::Message(header.length)};
    co_await socket_.recv_all(MutableBytes(reply.data), token_);
    co_return reply;
  }

  Task<bool> grants(Option option) {
    co_await send(option);
    const Reply reply = co_await receive();
    if (reply.type == OptionReply::tls_required) co_await denied(reply);
    if (reply.type != OptionReply::ack && !is_error(reply.type))
      co_await refused("unexpected reply to an option");
    co_return reply.type == OptionReply::ack;
  }

  Task<> choose_headers() {
    const bool extended = co_await grants(Option::extended_headers);
    if (extended) terms_.headers = nbd::Headers::extended;
    if (extended) co_return;
    const bool structured = co_await grants(Option::structured_reply);
    if (structured) terms_.headers = nbd::Headers::structured;
  }

  Task<> choose_context() {
    nbd::Message data;
    nbd::ContextRequest request;
    request.name = name_;
    request.queries.emplace_back(nbd::context_allocation);
    nbd::encode_context_request(data, request);
    co_await send(Option::set_meta_context, data);
    for (;;) {
      const Reply reply = co_await receive();
      if (reply.type != OptionReply::meta_context) {
        if (reply.type != OptionReply::ack && !is_error(reply.type))
          co_await refused("unexpected reply to an option");
        if (is_error(reply.type)) terms_.allocation.reset();
        co_return;
      }
      const auto context = co_await unwrap(nbd::decode_context_reply(reply.data));
      if (context.name != nbd::context_allocation)
        co_await refused("metadata context that was not asked for");
      terms_.allocation = context.id;
    }
  }

  // False: the server does not know the option.
  Task<bool> go() {
    nbd::Message data;
    nbd::InfoRequest request;
    request.name = name_;
    request.infos.push_back(nbd::Info::block_size);
    nbd::encode_info_request(data, request);
    co_await send(Option::go, data);
    bool described = false;
    for (;;) {
      const Reply reply = co_await receive();
      if (reply.type == OptionReply::unsupported) co_return false;
      if (is_error(reply.type)) co_await denied(reply);
      if (reply.type == OptionReply::ack && !described) co_await refused("export not described");
      if (reply.type == OptionReply::ack) co_return true;
      if (reply.type != OptionReply::info) co_await refused("unexpected reply to an option");
      const auto info = co_await unwrap(nbd::decode_info_reply(reply.data));
      if (info.kind == nbd::Info::export_) terms_.info = info.export_info;
      if (info.kind == nbd::Info::block_size) terms_.sizes = info.sizes;
      described = described || info.kind == nbd::Info::export_;
      terms_.sizes_known = terms_.sizes_known || info.kind == nbd::Info::block_size;
    }
  }

  // The way of older servers: they close the connection when there is no such export.
  Task<> export_name() {
    co_await send(Option::export_name, as_bytes(name_));
    std::byte bytes[nbd::export_info_size + nbd::export_padding_size];
    const std::size_t size = nbd::export_info_size + (no_zeroes_ ? 0 : nbd::export_padding_size);
    const auto got = co_await socket_.recv_all(MutableBytes(bytes).first(size), token_).result();
    if (!got && got.error().code() == Errc::disconnected)
      co_await Error(Errc::not_found, "the server has no export '" + name_ + "'", ENOENT);
    co_await unwrap(got);
    terms_.info = co_await unwrap(
        nbd::decode_export_name_reply(Bytes(bytes).first(nbd::export_info_size)));
  }

  Task<> denied(const Reply& reply) const {
    const std::string text = reply.data.empty() ? "" : ": " + nbd_text(reply.data);
    switch (reply.type) {
      case OptionReply::unknown_export:
        co_await Error(Errc::not_found, "export '" + name_ + "' not present" + text, ENOENT);
        break;
      case OptionReply::tls_required:
        co_await Error(Errc::unsupported, "the server requires TLS, which is not supported", ENOTSUP);
        break;
      case OptionReply::policy:
        co_await Error(Errc::permission, "the server does not let us use the export" + text, EPERM);
        break;
      case OptionReply::shutdown:
        co_await Error(Errc::disconnected, "the server is shutting down" + text, ESHUTDOWN);
        break;
      default: co_await refused("the server refused the export" + text);
    }
  }

  Socket& socket_;
  const std::string name_;
  const CancelToken token_;
  NbdTerms terms_;
  bool no_zeroes_ = false;
  Option asked_{};
  unsigned replies_ = 0;
};

}  // namespace

Task<NbdTerms> nbd_shake_hands(Socket& socket, std::string export_name, CancelToken token) {
  co_await unwrap(nbd::check_string(export_name));
  Handshake handshake(socket, std::move(export_name), token);
  co_return co_await handshake.run();
}

}  // namespace tidemark
