#include "control/qmp/qmp_client.hpp"

#include "base/utf8.hpp"
#include "task/cancel_follower.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

struct ErrorClass {
  std::string_view name;
  Errc code;
};

constexpr ErrorClass error_classes[] = {
    {"CommandNotFound", Errc::command_not_found},
    {"DeviceNotActive", Errc::device_not_active},
    {"DeviceNotFound", Errc::device_not_found},
};

// The bytes that JSON cannot hold would become others.
const std::string* find_not_utf8(const Json& json) {
  const std::string* found = nullptr;
  if (json.is_string() && !is_utf8(json.as_string())) return &json.as_string();
  if (json.is_array())
    for (const Json& item : json.as_array())
      if (!found) found = find_not_utf8(item);
  if (json.is_object())
    for (const auto& member : json.as_object())
      if (!found) found = find_not_utf8(member.second);
  return found;
}

Error to_error(const Json& error) {
  const Json* name = error.find("class");
  const Json* text = error.find("desc");
  Errc code = Errc::invalid_argument;
  for (const auto& row : error_classes)
    if (name && name->is_string() && name->as_string() == row.name) code = row.code;
  return Error(code, text && text->is_string() ? text->as_string() : "the daemon answered with an error of no words");
}

}  // namespace

namespace {

Task<> ring(Reactor& reactor, CancelSource& stop, bool& late, CancelToken done) {
  auto slept = co_await reactor.sleep(QmpClient::greeting_timeout, done).result();
  if (!slept) co_return;
  late = true;
  stop.request();
}

}  // namespace

Task<QmpClient> QmpClient::connect(Reactor& reactor, SocketAddress address, CancelToken token) {
  QmpClient client(address.describe());
  auto opened = co_await client.open(reactor, std::move(address), token).result();
  if (!opened) {
    (void)co_await client.close().result();
    co_await opened.error();
  }
  client.token_ = token;
  co_return std::move(client);
}

Task<> QmpClient::open(Reactor& reactor, SocketAddress address, CancelToken token) {
  CancelSource stop;
  CancelFollower interruption(stop, token);
  token_ = stop.token();
  bool late = false;
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(ring(reactor, stop, late, group.token()));
    co_await greet(reactor, std::move(address));
  };
  auto greeted = co_await with_group(reactor, body).result();
  token_ = {};
  if (!greeted && late)
    co_await Error(Errc::timed_out, "'" + name_ + "' takes connections but does not greet: its monitor is in use by another " +
                                        "client, or it hangs");
  co_await unwrap(std::move(greeted));
}

Task<> QmpClient::greet(Reactor& reactor, SocketAddress address) {
  auto socket = co_await Socket::connect(reactor, std::move(address), token_).result();
  const bool cancelled = !socket && socket.error().code() == Errc::cancelled;
  if (!socket && !cancelled)
    co_await Error(socket.error().code(), "no daemon answers: " + socket.error().message() +
                   "; start one with 'tidemark serve', or name its socket with --qmp", socket.error().os_errno());
  socket_ = co_await unwrap(std::move(socket));
  greeting_ = co_await receive(token_);
  if (!greeting_.find("QMP")) co_await Error(Errc::invalid_format, "'" + name_ + "' does not speak QMP");
  auto negotiated = co_await execute("qmp_capabilities").result();
  if (negotiated) co_return;
  const bool named = negotiated.error().message().find(name_) != std::string::npos;
  if (named) co_await negotiated.error();
  co_await negotiated.error().with_context("'" + name_ + "'");
}

Error QmpClient::at_daemon(const Error& error) const {
  if (error.code() == Errc::cancelled) return error;
  return Error(Errc::disconnected, "the daemon at '" + name_ + "' is gone: " + error.message(), error.os_errno());
}

Error QmpClient::wrong_answer(std::string_view what) const {
  return Error(Errc::invalid_format, "the daemon at '" + name_ + "' " + std::string(what));
}

Task<Json> QmpClient::receive(CancelToken token) {
  for (;;) {
    if (auto message = stream_.next()) {
      if (!*message) co_await wrong_answer("sends what is no JSON: " + message->error().message());
      co_return **std::move(message);
    }
    std::array<std::byte, 16384> buffer;
    const MutableBytes bytes(buffer);
    const auto n = co_await socket_.recv_some(bytes, token).result();
    if (!n) co_await at_daemon(n.error());
    if (*n == 0) co_await Error(Errc::disconnected, "the daemon at '" + name_ + "' has closed the connection");
    stream_.feed(as_text(bytes.first(*n)));
  }
}

Task<Json> QmpClient::reply() {
  for (;;) {
    Json message = co_await receive(token_);
    if (!message.is_object()) co_await wrong_answer("answers what is not an object");
    if (!message.find("event")) co_return std::move(message);
    events_.push_back(std::move(message));
    if (events_.size() > events_max) events_.pop_front();
  }
}

Task<Json> QmpClient::execute_raw(Json command) {
  const std::string line = to_text(command) + "\n";
  const Buffers bytes = Buffers::of_const(as_bytes(line));
  const auto sent = co_await socket_.send_all(bytes, token_).result();
  if (!sent) co_await at_daemon(sent.error());
  co_return co_await reply();
}

Task<Json> QmpClient::execute(std::string command, Json arguments) {
  if (const std::string* name = find_not_utf8(arguments))
    co_await Error(Errc::invalid_argument, "'" + *name + "' is not UTF-8, and cannot be told to the daemon; choose another name");
  Json request = Json::object({{"execute", command}});
  if (!arguments.as_object().empty()) request.set("arguments", std::move(arguments));
  Json answer = co_await execute_raw(std::move(request));
  if (const Json* error = answer.find("error")) co_await to_error(*error);
  Json* value = answer.find("return");
  if (!value) {
    const std::string what = "answers '" + command + "' with neither return nor error";
    co_await wrong_answer(what);
  }
  co_return std::move(*value);
}

Task<Json> QmpClient::next_event(CancelToken token) {
  while (events_.empty()) {
    Json message = co_await receive(token);
    if (message.is_object() && message.find("event")) events_.push_back(std::move(message));
  }
  Json event = std::move(events_.front());
  events_.pop_front();
  co_return std::move(event);
}

}  // namespace tidemark
