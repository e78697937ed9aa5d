#include "app/daemon/monitors.hpp"

#include <fmt/format.h>

namespace tidemark {
namespace {

Result<SocketAddress> address_of(const schema::ChardevSocket& socket) {
  SocketAddress address;
  if (socket.path.has_value() == socket.host.has_value())
    return Error(Errc::invalid_argument, "a socket has either a path, or a host and a port");
  if (socket.path) {
    address.path = *socket.path;
    return address;
  }
  if (!socket.port || socket.port->empty()) return Error(Errc::invalid_argument, "a host needs a port");
  address.kind = SocketAddress::Kind::inet;
  address.host = *socket.host;
  address.port = *socket.port;
  return address;
}

}  // namespace

Result<> Monitors::add_chardev(schema::ChardevOptions options) {
  if (chardevs_.contains(options.id))
    return Error(Errc::exists, fmt::format("Chardev with id '{}' already exists", options.id));
  if (auto address = address_of(std::get<schema::ChardevSocket>(options.branch)); !address)
    return address.error().with_context(fmt::format("chardev '{}'", options.id));
  const std::string id = options.id;
  chardevs_.emplace(id, std::move(options));
  return {};
}

Task<> Monitors::add_monitor(schema::MonitorOptions options, CancelToken stopping) {
  const auto chardev = chardevs_.find(options.chardev);
  if (chardev == chardevs_.end()) co_await Error(Errc::not_found, fmt::format("chardev '{}' not found", options.chardev));
  const auto socket = std::get<schema::ChardevSocket>(chardev->second.branch);
  SocketAddress address = co_await unwrap(address_of(socket));
  if (!socket.server) {
    Socket connected = co_await Socket::connect(reactor_, std::move(address));
    group_.spawn(server_.serve(std::move(connected), options.pretty));
    chardevs_.erase(chardev);
    co_return;
  }
  Listener listening = co_await Listener::listen(reactor_, std::move(address));
  auto& listener = *listeners_.emplace_back(std::make_unique<Listener>(std::move(listening)));
  chardevs_.erase(chardev);
  if (socket.wait.value_or(true)) {
    Socket first = co_await listener.accept(stopping);
    group_.spawn(server_.serve(std::move(first), options.pretty));
  }
  group_.spawn(listen(listener, options.pretty, stopping));
}

// An error here ends this monitor, not the daemon.
Task<> Monitors::listen(Listener& listener, bool pretty, CancelToken stopping) {
  (void)co_await server_.listen(listener, pretty, stopping).result();
}

Task<> Monitors::stop() {
  server_.stop();
  for (auto& listener : listeners_) (void)co_await listener->close().result();
}

}  // namespace tidemark
