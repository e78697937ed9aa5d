#include "control/exports/exports.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/identifier.hpp"
#include "control/nodes/active.hpp"
#include "control/nodes/auto_read_only.hpp"

namespace tidemark {
namespace {

SocketAddress to_address(const schema::InetSocketAddress& inet) {
  SocketAddress address;
  address.kind = SocketAddress::Kind::inet;
  address.host = inet.host;
  address.port = inet.port;
  return address;
}

SocketAddress to_address(const schema::UnixSocketAddress& unix_address) {
  SocketAddress address;
  address.path = unix_address.path;
  return address;
}

NbdServerOptions to_options(const schema::NbdServerOptionsBase& given, SocketAddress address) {
  NbdServerOptions options;
  options.addresses.push_back(std::move(address));
  options.max_connections = given.max_connections;
  options.handshake_max = std::chrono::seconds(given.handshake_max_seconds);
  return options;
}

NbdExportOptions::BitmapName to_bitmap_name(const schema::BlockDirtyBitmapOrStr& given) {
  if (const auto* local = std::get_if<std::string>(&given.value)) return {{}, *local};
  const auto& external = std::get<schema::BlockDirtyBitmap>(given.value);
  return {external.node, external.name};
}

Result<std::string> one_thread(const schema::BlockExportIothreads& given) {
  if (const auto* single = std::get_if<std::string>(&given.value)) return *single;
  const auto& several = std::get<std::vector<std::string>>(given.value);
  if (several.size() == 1) return several.front();
  return Error(Errc::unsupported, "an NBD export is served on one iothread; 'iothread' must name one");
}

// Of a command that waits for clients: longer than they are given to read answers.
constexpr Duration stop_max = std::chrono::seconds(3);
constexpr const char* still_ending = ": requests of its clients are still under way in the storage; choose another id, or wait";

Error cannot_move() { return Error(Errc::busy, "Cannot change iothread of active block backend"); }

// On the node's thread.

Task<BlockNode*> find_node(Graph& graph, const std::string& name) { co_return co_await unwrap(graph.lookup(name)); }

Task<bool> is_shown_read_only(Graph& graph, const std::string& name) {
  const BlockNode* node = co_await unwrap(graph.lookup(name));
  co_return is_read_only(*node);
}

using Served = std::vector<std::shared_ptr<NbdExport>>;

Result<> tell(const Served& served) {
  for (const auto& nbd : served) {
    if (!nbd->has_disk()) continue;
    if (auto told = nbd->set_active(nbd->disk().node().active()); !told) return told;
  }
  return {};
}

// Fewer demands never conflict.
void let_go(const Served& served, const std::vector<BlockNode*>& nodes) {
  for (const auto& nbd : served)
    if (nbd->has_disk() && std::find(nodes.begin(), nodes.end(), &nbd->disk().node()) != nodes.end()) (void)nbd->set_active(false);
}

Task<> set_active(Graph& graph, std::string name, Served served, bool active) {
  BlockNode* node = graph.pin(name);
  if (!node) co_return;                          // it has gone meanwhile
  if (active) {
    const std::vector<BlockNode*> changed = activated_with(*node);
    co_await activate(*node);
    const Result<> told = tell(served);
    if (told) co_return;
    let_go(served, changed);
    (void)co_await inactivate(changed).result();
    co_await told.error();
  }
  let_go(served, inactivated_with(*node));
  const Result<> done = co_await inactivate(*node).result();
  (void)tell(served);
  co_await unwrap(done);
}

// What would be activated with a node.
Task<std::vector<std::string>> inactive_with(Graph& graph, const std::string& name) {
  std::vector<std::string> names;
  BlockNode* node = co_await unwrap(graph.lookup(name));
  for (const BlockNode* one : activated_with(*node)) names.push_back(one->name());
  co_return std::move(names);
}

// That has happened, and is undone.
Task<> inactivate_again(Graph& graph, const std::vector<std::string>& names, Served served) {
  std::vector<BlockNode*> nodes;
  for (const std::string& name : names)
    if (BlockNode* node = graph.pin(name)) nodes.push_back(node);
  let_go(served, nodes);
  (void)co_await inactivate(nodes).result();
  (void)tell(served);
}

Task<std::optional<std::string>> node_of(const NbdExport& nbd) {
  if (!nbd.has_disk()) co_return std::nullopt;
  co_return nbd.disk().node().name();
}

}  // namespace

Task<> Exports::nbd_server_start(schema::NbdServerOptionsLegacy arguments) {
  const auto* inet = std::get_if<schema::InetSocketAddressWrapper>(&arguments.addr.branch);
  const auto* local = std::get_if<schema::UnixSocketAddressWrapper>(&arguments.addr.branch);
  SocketAddress address = inet ? to_address(inet->data) : to_address(local->data);
  co_await start_server(to_options(arguments, std::move(address)));
  serve();
}

Task<> Exports::start(schema::NbdServerOptions options) {
  const auto* inet = std::get_if<schema::InetSocketAddress>(&options.addr.branch);
  const auto* local = std::get_if<schema::UnixSocketAddress>(&options.addr.branch);
  SocketAddress address = inet ? to_address(*inet) : to_address(*local);
  co_await start_server(to_options(options, std::move(address)));
}

Task<> Exports::start_server(NbdServerOptions options) {
  if (server_) co_await Error(Errc::exists, "NBD server already running");
  server_ = co_await NbdServer::listen(homes_.main().reactor, std::move(options));
}

void Exports::serve() {
  if (server_) group_.spawn(server_->serve());
}

// Where it may be inactive, an export asks for nothing while its node is.
Task<> Exports::set_active(Place& place, std::string node, bool active) {
  co_await homes_.at(place, tidemark::set_active(place.graph, std::move(node), at_home(place.reactor), active));
}

std::vector<std::shared_ptr<NbdExport>> Exports::at_home(const Reactor& home) const {
  Served served;
  for (const auto& [id, entry] : exports_)
    if (&entry.nbd->home() == &home) served.push_back(entry.nbd);
  return served;
}

Task<> Exports::block_export_add(schema::BlockExportOptions arguments) {
  const std::string id = arguments.id;
  Place* wanted = co_await check_new(arguments);
  Place* place = co_await choose_place(arguments, wanted);
  co_await add_hidden(std::move(arguments), *place);
  show(id);
}

// What cannot be done is refused by prepare(), in its turn.
Task<> Exports::gather(const schema::BlockExportOptions& arguments) {
  const Result<Place*> possible = co_await check_new(arguments).result();
  if (possible) (void)co_await choose_place(arguments, *possible);
}

// The node may be made in the same transaction, and is not moved then.
Task<> Exports::prepare(schema::BlockExportOptions arguments) {
  Place* wanted = co_await check_new(arguments);
  Place* place = co_await homes_.lookup(arguments.node_name);
  if (wanted && wanted != place && arguments.fixed_iothread) co_await cannot_move();
  co_await add_hidden(std::move(arguments), *place);
}

void Exports::show(const std::string& id) noexcept { exports_.at(id).nbd->show(); }

Task<> Exports::undo(std::string id) {
  const Entry entry = exports_.extract(id).mapped();
  (void)server_->remove_export(entry.nbd->name(), NbdServer::RemoveMode::hard);
  (void)co_await entry.nbd->close().result();
  co_await take_back(*entry.place, entry.activated);
}

Task<> Exports::take_back(Place& place, std::vector<std::string> activated) {
  if (!activated.empty()) co_await homes_.at(place, inactivate_again(place.graph, activated, at_home(place.reactor)));
}

// The thread that it is to be served on, null when it does not say.
Task<Place*> Exports::check_new(const schema::BlockExportOptions& arguments) {
  if (!is_identifier(arguments.id)) co_await Error(Errc::invalid_argument, "Invalid block export id");
  const auto taken = exports_.find(arguments.id);
  if (taken != exports_.end()) {
    const char* const why = taken->second.shutting_down ? still_ending : "";
    co_await Error(Errc::exists, fmt::format("Block export id '{}' is already in use{}", arguments.id, why));
  }
  Place* there = co_await homes_.find(arguments.node_name);
  if (!there) co_await Error(Errc::not_found, fmt::format("Cannot find device='' nor node-name='{}'", arguments.node_name));
  Place* wanted = nullptr;
  if (arguments.iothread) {
    const std::string id = co_await unwrap(one_thread(*arguments.iothread));
    wanted = homes_.find_thread(id);
    if (!wanted) co_await Error(Errc::not_found, fmt::format("iothread \"{}\" not found", id));
  }
  if (!server_) co_await Error(Errc::not_found, "NBD server not running");
  co_return wanted;
}

Task<> Exports::add_hidden(schema::BlockExportOptions arguments, Place& place) {
  BlockNode* node = co_await homes_.at(place, find_node(place.graph, arguments.node_name));
  Entry entry;
  entry.place = &place;
  if (!arguments.allow_inactive) {
    entry.activated = co_await homes_.at(place, inactive_with(place.graph, arguments.node_name));
    co_await set_active(place, arguments.node_name, true);
  }
  if (arguments.writable) co_await homes_.at(place, begin_to_write(*node));
  const auto& nbd = std::get<schema::BlockExportOptionsNbd>(arguments.branch);
  NbdExportOptions options;
  options.id = arguments.id;
  options.name = nbd.name.value_or(arguments.node_name);
  options.description = nbd.description.value_or("");
  options.writable = arguments.writable;
  options.writethrough = arguments.writethrough;
  options.allocation_depth = nbd.allocation_depth;
  options.allow_inactive = arguments.allow_inactive;
  options.hidden = true;
  options.on_removed = [this, id = arguments.id] { removed(id); };
  if (nbd.bitmaps)
    for (const auto& bitmap : *nbd.bitmaps) options.bitmaps.push_back(to_bitmap_name(bitmap));
  auto added = co_await server_->add_export_at(place.reactor, *node, std::move(options)).result();
  if (!added) {
    co_await take_back(place, std::move(entry.activated));
    co_await added.error();
  }
  entry.nbd = *std::move(added);
  entry.number = ++added_;
  entry.node = arguments.node_name;
  exports_.emplace(arguments.id, std::move(entry));
}

// Where the node lives from now on: on the thread asked for, when it can move; else where it is (qapi: BlockExportOptions).
Task<Place*> Exports::choose_place(const schema::BlockExportOptions& arguments, Place* wanted) {
  Place* present = co_await homes_.lookup(arguments.node_name);
  if (!wanted || wanted == present) co_return present;
  const auto moved = co_await homes_.move(arguments.node_name, *wanted).result();
  if (moved) co_return wanted;
  if (arguments.fixed_iothread) co_await cannot_move();
  co_return present;
}

Task<> Exports::nbd_server_add(schema::NbdServerAddOptions arguments) {
  Place* place = co_await homes_.lookup(arguments.device);
  const bool read_only = co_await homes_.at(*place, is_shown_read_only(place->graph, arguments.device));
  schema::BlockExportOptionsNbd nbd;
  nbd.name = arguments.name.value_or(arguments.device);
  nbd.description = arguments.description;
  if (arguments.bitmap) {
    schema::BlockDirtyBitmapOrStr bitmap;
    bitmap.value = *arguments.bitmap;
    nbd.bitmaps.emplace().push_back(std::move(bitmap));
  }
  schema::BlockExportOptions options;
  options.id = *nbd.name;
  options.type = schema::BlockExportType::nbd;
  options.node_name = arguments.device;
  // As QEMU's: a read-only node is served read-only, whatever was asked for.
  options.writable = arguments.writable && !read_only;
  options.branch = std::move(nbd);
  co_await block_export_add(std::move(options));
}

Task<> Exports::nbd_server_remove(schema::NbdServerRemoveArguments arguments) {
  if (!exports_.contains(arguments.name))
    co_await Error(Errc::not_found, fmt::format("Export '{}' is not found", arguments.name));
  co_await remove(arguments.name, arguments.mode);
}

Task<> Exports::block_export_del(schema::BlockExportDelArguments arguments) {
  if (!exports_.contains(arguments.id))
    co_await Error(Errc::not_found, fmt::format("Export '{}' is not found", arguments.id));
  co_await remove(arguments.id, arguments.mode);
}

Task<> Exports::remove(std::string id, schema::BlockExportRemoveMode mode) {
  Entry& entry = exports_.at(id);
  if (entry.shutting_down) co_await Error(Errc::busy, fmt::format("export '{}' is already shutting down", id));
  const bool hard = mode == schema::BlockExportRemoveMode::hard;
  auto removed = server_->remove_export(entry.nbd->name(), hard ? NbdServer::RemoveMode::hard : NbdServer::RemoveMode::safe);
  if (!removed && removed.error().code() == Errc::busy)
    co_await Error(Errc::busy, fmt::format("export '{}' still in use", id));
  if (!removed) co_await removed.error();
  entry.shutting_down = true;
  group_.spawn(finish_removal(*std::move(removed)));
}

Task<> Exports::finish_removal(std::shared_ptr<NbdExport> nbd) {
  (void)co_await nbd->close().result();          // lets go of the node, too
}

// It is closed; one that nobody was shown goes without a word.
void Exports::removed(const std::string& id) {
  const auto place = exports_.find(id);
  if (place == exports_.end()) return;
  schema::BlockExportDeletedEvent event;
  event.id = id;
  exports_.erase(place);
  events_.send(event);
  changed_.notify_all();
}

Task<> Exports::nbd_server_stop() {
  if (!server_) co_await Error(Errc::not_found, "NBD server not running");
  begin_stop();
  CancelSource late;
  const auto expire = [&](CancelToken token) -> Task<> {
    co_await homes_.main().reactor.sleep(stop_max, token);
    late.request();
  };
  const auto in_time = [&](TaskGroup& group) -> Task<> {
    group.spawn(expire(group.token()));
    while (stopping_ != 0) co_await changed_.wait(late.token());
  };
  (void)co_await with_group(homes_.main().reactor, in_time).result();
}

// Nobody connects any more; what is left is shutting down, each export until the last request of its clients has ended.
void Exports::begin_stop() {
  if (!server_) return;
  for (auto& [id, entry] : exports_) entry.shutting_down = true;
  ++stopping_;
  group_.spawn(end_server(std::move(server_)));
}

Task<> Exports::end_server(std::unique_ptr<NbdServer> server) {
  co_await server->stop(NbdServer::StopMode::orderly);
  server.reset();
  --stopping_;
  changed_.notify_all();
}

Task<> Exports::stop() {
  begin_stop();
  while (stopping_ != 0 || !exports_.empty()) co_await changed_.wait();
}

Task<std::vector<schema::BlockExportInfo>> Exports::query_block_exports() {
  std::vector<schema::BlockExportInfo> all;
  // The newest first.  They may go while one is asked.
  std::vector<std::pair<std::string, Entry>> exports(exports_.begin(), exports_.end());
  std::ranges::sort(exports, std::ranges::greater(), [](const auto& one) { return one.second.number; });
  for (const auto& [id, entry] : exports) {
    const auto node = co_await visit(homes_.main().reactor, entry.nbd->home(), node_of(*entry.nbd));
    const auto place = exports_.find(id);
    if (place == exports_.end() || place->second.number != entry.number) continue;   // gone meanwhile
    // One that has let go of its node is there until its id is free.
    if (node) place->second.node = *node;
    schema::BlockExportInfo info;
    info.id = id;
    info.type = schema::BlockExportType::nbd;
    info.node_name = place->second.node;
    info.shutting_down = place->second.shutting_down;
    all.push_back(std::move(info));
  }
  co_return std::move(all);
}

namespace {

// What stands for itself in a URI's path and query, and '/'; all else as %XX.
std::string in_uri(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("-._~/,:@=").find(c) != std::string_view::npos;
    if (plain) out += c;
    else out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

}  // namespace

std::vector<std::string> Exports::ids() const {
  std::vector<std::string> all;
  for (const auto& [id, entry] : exports_) all.push_back(id);
  return all;
}

std::vector<std::string> Exports::uris() const {
  std::vector<std::string> all;
  if (!server_) return all;
  for (const SocketAddress& address : server_->addresses())
    for (const auto& [id, entry] : exports_) {
      if (entry.shutting_down) continue;
      const std::string name = in_uri(entry.nbd->name());
      all.push_back(address.kind == SocketAddress::Kind::unix_path
                        ? fmt::format("nbd+unix:///{}?socket={}", name, in_uri(address.path))
                        : fmt::format("nbd://{}/{}", address.describe(), name));
    }
  return all;
}

}  // namespace tidemark
