#include "app/daemon/monitors.hpp"

#include <utility>

#include <fmt/format.h>

#include "base/identifier.hpp"

namespace tidemark {
namespace {

Error refused(const std::string& why) { return Error(Errc::invalid_argument, why); }

// A monitor lets anybody in: which interface it is open on must be said.
Result<SocketAddress> address_of(const schema::ChardevSocket& socket) {
  SocketAddress address;
  if (socket.path && socket.host) return refused("a socket has a path or a host, not both");
  if (!socket.path && !socket.host)
    return refused("a socket needs a path, or a host and a port; for instance host=localhost, or host=0.0.0.0 for all interfaces");
  if (socket.path && socket.path->empty()) return refused("the path is empty");
  if (socket.path) {
    address.path = *socket.path;
    return address;
  }
  if (!socket.port || socket.port->empty()) return refused("a host needs a port");
  address.kind = SocketAddress::Kind::inet;
  address.host = *socket.host;
  address.port = *socket.port;
  return address;
}

}  // namespace

Task<> Monitors::add_chardev(schema::ChardevOptions options, CancelToken stopping) {
  if (!is_identifier(options.id)) co_await refused("Parameter 'id' expects an identifier");
  if (chardevs_.contains(options.id)) co_await Error(Errc::exists, fmt::format("Chardev with id '{}' already exists", options.id));
  Chardev& chardev = chardevs_[options.id];
  auto opened = co_await open(chardev, std::get<schema::ChardevSocket>(options.branch), stopping).result();
  if (!opened) co_await opened.error().with_context(fmt::format("chardev '{}'", options.id));
}

Task<> Monitors::open(Chardev& chardev, schema::ChardevSocket options, CancelToken stopping) {
  SocketAddress address = co_await unwrap(address_of(options));
  if (!options.server) {
    if (options.wait) co_await refused("'wait' option is incompatible with socket in client connect mode");
    chardev.client = co_await Socket::connect(reactor_, std::move(address), stopping);
    co_return;
  }
  chardev.listener = co_await Listener::listen(reactor_, std::move(address));
  if (options.wait.value_or(true)) chardev.client = co_await chardev.listener->accept(stopping);
}

Result<> Monitors::add_monitor(const schema::MonitorOptions& options, CancelToken stopping) {
  const auto found = chardevs_.find(options.chardev);
  if (found == chardevs_.end()) return Error(Errc::not_found, fmt::format("chardev \"{}\" not found", options.chardev));
  Chardev& chardev = found->second;
  if (chardev.in_use) return Error(Errc::busy, fmt::format("Device '{}' is in use", options.chardev));
  chardev.in_use = true;
  if (chardev.client) group_.spawn(server_.serve(*std::exchange(chardev.client, std::nullopt), options.pretty));
  if (chardev.listener) group_.spawn(listen(*chardev.listener, options.pretty, stopping));
  return {};
}

// An error here ends this monitor, not the daemon.
Task<> Monitors::listen(Listener& listener, bool pretty, CancelToken stopping) {
  (void)co_await server_.listen(listener, pretty, stopping).result();
}

Task<> Monitors::stop() {
  server_.stop();
  for (auto& [id, chardev] : chardevs_) {
    if (chardev.client) (void)co_await chardev.client->close().result();
    if (chardev.listener) (void)co_await chardev.listener->close().result();
  }
}

}  // namespace tidemark
