#include "export/nbd/server.hpp"

#include <algorithm>

#include "io/visit.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

constexpr std::size_t pool_kept_max = 64 * MiB;              // on each thread
constexpr std::uint64_t unlimited = UINT64_MAX / 2;
// After accept() failed for want of something (descriptors, memory), until it is tried again.
constexpr Duration accept_pause = std::chrono::milliseconds(100);
// Who is so in a handshake may be anybody who is busy.
constexpr Duration silence_min = std::chrono::milliseconds(500);

Task<std::shared_ptr<NbdExport>> create_export(BlockNode& node, Reactor& server, NbdExportOptions options) {
  co_return co_await unwrap(NbdExport::create(node, server, std::move(options)));
}

}  // namespace

NbdServer::NbdServer(Reactor& reactor, NbdServerOptions options)
    : reactor_(reactor), options_(std::move(options)), pools_(pool_kept_max),
      slots_(reactor, options_.max_connections ? options_.max_connections : unlimited),
      left_hall_(reactor), ended_(reactor) {}

NbdServer::~NbdServer() { TM_ASSERT(listeners_.empty() && exports_.empty()); }

Task<std::unique_ptr<NbdServer>> NbdServer::listen(Reactor& reactor, NbdServerOptions options) {
  std::unique_ptr<NbdServer> server(new NbdServer(reactor, std::move(options)));
  const Result<void> opened = co_await server->open_listeners().result();
  if (!opened) {
    (void)co_await server->close_listeners().result();
    co_await opened.error();
  }
  co_return server;
}

Task<> NbdServer::open_listeners() {
  for (const SocketAddress& address : options_.addresses) {
    Listener listener = co_await Listener::listen(reactor_, address);
    listeners_.push_back(std::move(listener));
  }
}

Task<> NbdServer::close_listeners() {
  for (Listener& listener : listeners_) (void)co_await listener.close().result();
  listeners_.clear();
}

std::vector<SocketAddress> NbdServer::addresses() const {
  std::vector<SocketAddress> all;
  for (const Listener& listener : listeners_) all.push_back(listener.address());
  return all;
}

Task<> NbdServer::serve() {
  auto serve_all = [this](TaskGroup& clients) -> Task<> {
    auto accept_all = [this, &clients](TaskGroup& listening) -> Task<> {
      for (Listener& listener : listeners_) listening.spawn(accept_clients(listener, clients));
      co_await listening.join();
    };
    (void)co_await with_group(reactor_, accept_all).result();
    co_await close_listeners();                                // requests of clients may hang
    co_await clients.join();
  };
  (void)co_await with_group(reactor_, serve_all).result();     // none of its tasks fails
  ended_.set();
}

Task<> NbdServer::accept_clients(Listener& listener, TaskGroup& clients) {
  const CancelToken token = stopping_.token();
  for (;;) {
    auto socket = co_await listener.accept(token).result();
    const auto room = co_await wait_for_room(token).result();
    if (socket && room) {
      clients.spawn(serve_client(*std::move(socket)));
      continue;
    }
    if (socket) (void)co_await socket->close().result();
    if (stopping_.requested()) co_return;
    (void)co_await reactor_.sleep(accept_pause, token).result();
  }
}

std::uint64_t NbdServer::clients() const noexcept {
  return static_cast<std::uint64_t>(
      std::count_if(clients_.begin(), clients_.end(), [](const auto* client) { return client->admission().admitted(); }));
}

NbdConnection* NbdServer::longest_silent() const noexcept {
  NbdConnection* found = nullptr;
  for (NbdConnection* client : clients_) {
    const NbdAdmission& admission = client->admission();
    if (!admission.haggling() || client->dropped()) continue;
    if (!found || admission.last_heard() < found->admission().last_heard()) found = client;
  }
  return found;
}

// There is, unless all who are on their way have just said something, or what they want, and wait for slots.
Task<> NbdServer::wait_for_room(CancelToken token) {
  const auto waking = [this](Instant when, CancelToken woken) -> Task<> {
    co_await reactor_.sleep(when - reactor_.now(), woken);
    left_hall_.notify_all();
  };
  while (on_their_way() >= options_.handshakes_max) {
    const NbdConnection* const silent = longest_silent();
    const Instant when = silent ? silent->admission().last_heard() + silence_min : Instant();
    if (silent && when <= reactor_.now()) co_return;
    const auto until_then = [&](TaskGroup& group) -> Task<> {
      if (silent) group.spawn(waking(when, group.token()));
      co_await left_hall_.wait(token);
    };
    co_await with_group(reactor_, until_then);
  }
}

Task<> NbdServer::serve_client(Socket socket) {
  const bool crowded = on_their_way() >= options_.handshakes_max;
  if (NbdConnection* silent = crowded ? longest_silent() : nullptr) silent->drop();
  NbdConnection client(std::move(socket), exports_, pools_, options_.handshake_max, slots_, left_hall_);
  const auto place = clients_.insert(clients_.end(), &client);
  if (stopping_.requested()) client.drop();
  co_await client.run();
  clients_.erase(place);
}

Result<> NbdServer::check_new(NbdExportOptions& options) const {
  if (stopping_.requested()) return Error(Errc::busy, "NBD server is shutting down");
  if (exports_.contains(options.name))
    return Error(Errc::exists, "NBD server already has export named '" + options.name + "'");
  if (options_.max_connections == 1) options.multi_conn = false;
  return {};
}

Result<std::shared_ptr<NbdExport>> NbdServer::add_export(BlockNode& node,
                                                         NbdExportOptions options) {
  TM_ASSERT(&node.reactor() == &reactor_);
  if (auto good = check_new(options); !good) return good.error();
  auto disk = NbdExport::create(node, reactor_, std::move(options));
  if (disk) exports_.emplace((*disk)->name(), *disk);
  return disk;
}

Task<std::shared_ptr<NbdExport>> NbdServer::add_export_at(Reactor& home, BlockNode& node,
                                                          NbdExportOptions options) {
  co_await unwrap(check_new(options));
  auto disk = co_await visit(reactor_, home, create_export(node, reactor_, options));
  const Result<> still_new = check_new(options);
  if (still_new) {
    exports_.emplace(disk->name(), disk);
  } else {
    (void)co_await disk->close().result();
    co_await still_new.error();
  }
  co_return disk;
}

Result<std::shared_ptr<NbdExport>> NbdServer::remove_export(std::string_view name,
                                                            RemoveMode mode) {
  const auto found = exports_.find(name);
  if (found == exports_.end())
    return Error(Errc::not_found, "Export '" + std::string(name) + "' is not found");
  std::shared_ptr<NbdExport> disk = found->second;
  if (mode == RemoveMode::safe && disk->clients() != 0)
    return Error(Errc::busy, "export '" + disk->options().id + "' still in use");
  disk->shut_down();
  exports_.erase(found);
  for (NbdConnection* client : clients_)
    if (client->chosen() == disk.get()) client->drop();
  return disk;
}

Task<> NbdServer::drop_late_clients(CancelToken token) {
  co_await reactor_.sleep(options_.stop_max, token);
  for (NbdConnection* client : clients_) client->drop();
}

Task<> NbdServer::wait_ended(StopMode mode) {
  auto ended_in_time = [this, mode](TaskGroup& group) -> Task<> {
    if (mode == StopMode::orderly) group.spawn(drop_late_clients(group.token()));
    co_await ended_.wait();
  };
  co_await with_group(reactor_, ended_in_time);
}

Task<> NbdServer::stop(StopMode mode) {
  stopping_.request();
  for (NbdConnection* client : clients_) mode == StopMode::hard ? client->drop() : client->finish();
  const NbdExportMap closing = std::exchange(exports_, {});
  auto close_all = [&](TaskGroup& group) -> Task<> {
    for (const auto& [name, disk] : closing) group.spawn(close_export(disk));
    co_await wait_ended(mode);
    co_await group.join();
  };
  co_await with_group(reactor_, close_all);
}

// Once its own clients have gone.
Task<> NbdServer::close_export(std::shared_ptr<NbdExport> disk) {
  disk->shut_down();
  (void)co_await disk->close().result();
}

}  // namespace tidemark
