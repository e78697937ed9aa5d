#include "export/nbd/handshake.hpp"

#include <algorithm>

#include "task/cancel_follower.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using nbd::Headers;
using nbd::Info;
using nbd::Option;

Error violation(std::string_view what) {
  return Error(Errc::invalid_format, "NBD client: " + std::string(what));
}

bool asks_for(const nbd::InfoRequest& request, Info info) {
  return std::find(request.infos.begin(), request.infos.end(), info) != request.infos.end();
}

bool is_known(Option option) {
  switch (option) {
    case Option::export_name:
    case Option::abort:
    case Option::list:
    case Option::starttls:
    case Option::info:
    case Option::go:
    case Option::structured_reply:
    case Option::list_meta_context:
    case Option::set_meta_context:
    case Option::extended_headers: return true;
  }
  return false;
}

// Options whose data, if there is any, makes them invalid.
bool takes_no_data(Option option) {
  return option == Option::list || option == Option::starttls ||
         option == Option::structured_reply || option == Option::extended_headers;
}

}  // namespace

Task<std::optional<NbdAgreement>> NbdHandshake::run() {
  admission_.heard(socket_.reactor().now());
  co_await greet();
  for (std::uint64_t options = 0; !agreement_ && !aborted_; ++options) {
    if (options == options_max()) co_await violation("too many options");
    co_await receive_option();
    admission_.heard(socket_.reactor().now());
    const bool chooses = option_ == Option::export_name || option_ == Option::go;
    Task<> answering = chooses ? answer_choice() : answer();
    co_await std::move(answering);
  }
  co_return std::move(agreement_);
}

Task<> NbdHandshake::greet() {
  namespace h = nbd::handshake_flag;
  namespace c = nbd::client_flag;
  nbd::encode_greeting(out_, h::fixed_newstyle | h::no_zeroes);
  co_await send();
  std::byte answer[nbd::client_flags_size];
  co_await socket_.recv_all(MutableBytes(answer), token_);
  const auto flags = load_be<std::uint32_t>(answer);
  if (flags & ~(c::fixed_newstyle | c::no_zeroes)) co_await violation("unknown client flags");
  no_zeroes_ = (flags & c::no_zeroes) != 0;
}

Task<> NbdHandshake::receive_option() {
  std::byte bytes[nbd::option_header_size];
  co_await socket_.recv_all(MutableBytes(bytes), token_);
  const nbd::OptionHeader header = co_await unwrap(nbd::decode_option_header(bytes));
  if (header.length > nbd::payload_size_max) co_await violation("option data too long");
  option_ = header.option;
  refused_ = header.length > option_size_max || !is_known(option_);
  data_.resize(std::min(header.length, option_size_max));
  // What is not kept passes through the buffer.
  for (std::uint64_t left = header.length; left != 0;) {
    const std::size_t part = static_cast<std::size_t>(std::min<std::uint64_t>(left, data_.size()));
    co_await socket_.recv_all(MutableBytes(data_).first(part), token_);
    left -= part;
  }
}

// Who goes meanwhile waits for nothing, and neither does who goes on before it is answered.
Task<> NbdHandshake::wait_for_slot() {
  CancelSource gone;
  const CancelFollower stopped(gone, token_);
  const auto watch = [&](CancelToken answered) -> Task<> {
    std::byte early;
    (void)co_await socket_.recv_all(MutableBytes(&early, 1), answered).result();
    if (!answered.requested()) gone.request();
  };
  const auto in_line = [&](TaskGroup& group) -> Task<> {
    group.spawn(watch(group.token()));
    co_await admission_.wait(gone.token());
  };
  co_await with_group(socket_.reactor(), in_line);
}

// With all slots taken the client waits for its answer.
Task<> NbdHandshake::answer_choice() {
  if (!admission_.at_once()) co_await wait_for_slot();
  co_await answer();
  if (agreement_) admission_.enter();
  else admission_.give_back();
}

Task<> NbdHandshake::answer() {
  if (option_ == Option::export_name) co_return co_await export_name();
  if (option_ == Option::abort) abort();
  else if (!is_known(option_)) reply(Reply::unsupported, "unknown option");
  else if (refused_) reply(Reply::too_big, "option data too long");
  else if (takes_no_data(option_) && !data_.empty()) reply(Reply::invalid, "unexpected option data");
  else if (option_ == Option::list) list();
  else if (option_ == Option::starttls) reply(Reply::policy, "TLS not configured");
  else if (option_ == Option::info || option_ == Option::go) info_or_go();
  else if (option_ == Option::structured_reply) structured_reply();
  else if (option_ == Option::extended_headers) extended_headers();
  else if (option_ == Option::list_meta_context) list_contexts();
  else set_contexts();
  co_await send();
}

Task<> NbdHandshake::send() {
  const nbd::Message message = std::exchange(out_, {});
  const auto sent = co_await socket_.send_all(Buffers::of_const(message), token_).result();
  if (!sent && !aborted_) co_await sent.error();       // one who leaves need not wait for our answer
}

void NbdHandshake::reply(Reply type, std::string_view text) {
  nbd::encode_option_reply(out_, option_, type, text);
}

std::shared_ptr<NbdExport> NbdHandshake::find(std::string_view name) const {
  const auto found = exports_.find(name);
  return found == exports_.end() || found->second->hidden() ? nullptr : found->second;
}

std::shared_ptr<NbdExport> NbdHandshake::find_or_refuse(const std::string& name) {
  auto disk = find(name);
  if (!disk) reply(Reply::unknown_export, "export '" + name + "' not present");
  return disk;
}

bool NbdHandshake::contexts_chosen_for(const NbdExport& disk) const noexcept {
  return contexts_of_.get() == &disk && !contexts_.empty();
}

void NbdHandshake::choose(std::shared_ptr<NbdExport> disk, std::uint32_t block_size) {
  NbdAgreement agreement;
  if (contexts_chosen_for(*disk)) agreement.contexts = contexts_;
  agreement.edition = disk->edition();
  agreement.disk = std::move(disk);
  agreement.headers = headers_;
  agreement.block_size = block_size;
  agreement_ = std::move(agreement);
}

// The one option that cannot be refused but by going away.
Task<> NbdHandshake::export_name() {
  if (headers_ == Headers::extended) co_await violation("export name after extended headers");
  if (refused_) co_await violation("export name too long");
  auto disk = find(as_text(data_));
  if (!disk) co_await Error(Errc::not_found, "NBD client: export not present");
  const nbd::ExportInfo info{disk->size(), disk->flags(headers_, contexts_chosen_for(*disk))};
  nbd::encode_export_name_reply(out_, info, no_zeroes_);
  choose(std::move(disk), 1);
  co_await send();
}

void NbdHandshake::abort() {
  aborted_ = true;
  reply(Reply::ack);
}

void NbdHandshake::list() {
  for (const auto& [name, disk] : exports_) {
    if (disk->hidden()) continue;
    const nbd::ServerReply server{name, disk->options().description};
    nbd::encode_server_reply(out_, server);
  }
  reply(Reply::ack);
}

void NbdHandshake::info_or_go() {
  const auto request = nbd::decode_info_request(data_);
  if (!request) return reply(Reply::invalid, request.error().message());
  auto disk = find_or_refuse(request->name);
  if (!disk) return;
  nbd::BlockSizes sizes = disk->block_sizes();
  // Who does not ask does not know, and may send anything.
  if (!asks_for(*request, Info::block_size)) sizes.minimum = 1;
  const nbd::ExportInfo info{disk->size(), disk->flags(headers_, contexts_chosen_for(*disk))};
  nbd::encode_info_export(out_, option_, info);
  if (asks_for(*request, Info::name))
    nbd::encode_info_text(out_, option_, Info::name, disk->name());
  if (!disk->options().description.empty())
    nbd::encode_info_text(out_, option_, Info::description, disk->options().description);
  nbd::encode_info_block_sizes(out_, option_, sizes);
  reply(Reply::ack);
  if (option_ == Option::go) choose(std::move(disk), sizes.minimum);
}

void NbdHandshake::structured_reply() {
  if (headers_ == Headers::extended)
    return reply(Reply::extended_headers_required, "extended headers already negotiated");
  if (headers_ == Headers::structured)
    return reply(Reply::invalid, "structured replies already negotiated");
  headers_ = Headers::structured;
  reply(Reply::ack);
}

void NbdHandshake::extended_headers() {
  if (headers_ == Headers::extended)
    return reply(Reply::invalid, "extended headers already negotiated");
  headers_ = Headers::extended;
  reply(Reply::ack);
}

void NbdHandshake::list_contexts() {
  if (headers_ == Headers::simple)
    return reply(Reply::invalid, "structured replies not negotiated");
  const auto request = nbd::decode_context_request(data_);
  if (!request) return reply(Reply::invalid, request.error().message());
  const auto disk = find_or_refuse(request->name);
  if (!disk) return;
  for (std::uint32_t id : match_contexts(disk->contexts(), request->queries, true)) {
    const nbd::ContextReply context{0, disk->contexts()[id].name};
    nbd::encode_context_reply(out_, option_, context);
  }
  reply(Reply::ack);
}

void NbdHandshake::set_contexts() {
  contexts_of_.reset();                            // gone, even when this fails
  contexts_.clear();
  if (headers_ == Headers::simple)
    return reply(Reply::invalid, "structured replies not negotiated");
  const auto request = nbd::decode_context_request(data_);
  if (!request) return reply(Reply::invalid, request.error().message());
  auto disk = find_or_refuse(request->name);
  if (!disk) return;
  contexts_ = match_contexts(disk->contexts(), request->queries, false);
  for (std::uint32_t id : contexts_) {
    const nbd::ContextReply context{id, disk->contexts()[id].name};
    nbd::encode_context_reply(out_, option_, context);
  }
  contexts_of_ = std::move(disk);
  reply(Reply::ack);
}

}  // namespace tidemark
