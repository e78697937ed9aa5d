#include "control/qmp_client.hpp"

#include "task/finally.hpp"

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

Error to_error(const Json& error) {
  const Json* name = error.find("class");
  const Json* text = error.find("desc");
  Errc code = Errc::invalid_argument;
  for (const auto& row : error_classes)
    if (name && name->is_string() && name->as_string() == row.name) code = row.code;
  return Error(code, text && text->is_string() ? text->as_string() : "the daemon answered with an error of no words");
}

}  // namespace

Task<QmpClient> QmpClient::connect(Reactor& reactor, SocketAddress address) {
  const std::string name = address.describe();
  auto socket = co_await Socket::connect(reactor, std::move(address)).result();
  if (!socket) co_await socket.error().with_context("no daemon answers at '" + name + "'");
  QmpClient client;
  client.socket_ = *std::move(socket);
  auto greeting = co_await client.receive().result();
  Result<> ready = greeting ? Result<>() : Result<>(greeting.error());
  if (greeting && !greeting->find("QMP")) ready = Error(Errc::invalid_format, "does not speak QMP");
  if (ready) {
    client.greeting_ = *std::move(greeting);
    auto negotiated = co_await client.execute("qmp_capabilities").result();
    if (!negotiated) ready = negotiated.error();
  }
  if (!ready) {
    (void)co_await client.close().result();
    co_await ready.error().with_context("'" + name + "'");
  }
  co_return std::move(client);
}

Task<Json> QmpClient::receive(CancelToken token) {
  for (;;) {
    if (auto message = stream_.next()) co_return co_await unwrap(*std::move(message));
    std::array<std::byte, 16384> buffer;
    const MutableBytes bytes(buffer);
    const std::size_t n = co_await socket_.recv_some(bytes, token);
    if (n == 0) co_await Error(Errc::disconnected, "the daemon has closed the connection");
    stream_.feed(as_text(bytes.first(n)));
  }
}

Task<Json> QmpClient::reply() {
  for (;;) {
    Json message = co_await receive();
    if (!message.is_object()) co_await Error(Errc::invalid_format, "the daemon's answer is not an object");
    if (!message.find("event")) co_return std::move(message);
    events_.push_back(std::move(message));
    if (events_.size() > events_max) events_.pop_front();
  }
}

Task<Json> QmpClient::execute_raw(Json command) {
  const std::string line = to_text(command) + "\n";
  const Buffers bytes = Buffers::of_const(as_bytes(line));
  co_await socket_.send_all(bytes);
  co_return co_await reply();
}

Task<Json> QmpClient::execute(std::string command, Json arguments) {
  Json request = Json::object({{"execute", command}});
  if (!arguments.as_object().empty()) request.set("arguments", std::move(arguments));
  Json answer = co_await execute_raw(std::move(request));
  if (const Json* error = answer.find("error")) co_await to_error(*error);
  Json* value = answer.find("return");
  if (!value) {
    const std::string what = "the daemon's answer to '" + command + "' is neither return nor error";
    co_await Error(Errc::invalid_format, what);
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
