#include "control/nodes/node_opener.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "format/raw/raw.hpp"
#include "storage/file.hpp"
#include "storage/memory.hpp"
#include "storage/nbd.hpp"
#include "storage/null.hpp"

namespace tidemark {

using schema::BlockdevDriver;
using schema::BlockdevOptions;

namespace {

TrackingOptions tracking_options(const schema::BlockdevTracking& given) {
  TrackingOptions options;
  switch (given.mode) {
    case schema::BlockdevTrackingMode::power: options.mode = TrackingMode::power; break;
    case schema::BlockdevTrackingMode::process: options.mode = TrackingMode::process; break;
    case schema::BlockdevTrackingMode::off: options.mode = TrackingMode::off; break;
  }
  options.store = given.store.value_or("");
  options.suspect_budget = given.suspect_budget;
  return options;
}

// What opening an image may do to its child before the child's node has users of its own.
Permissions opening_permissions(Role role, bool read_only, bool active) {
  using P = Permissions;
  if (!active) return {};
  if (role == Role::target) return {P::consistent_read | P::write, P::consistent_read | P::write_unchanged};
  if (role == Role::filtered) return {P::consistent_read, P::all};
  if (role == Role::backing) return {P::consistent_read, P::all};      // that it may change is for the users to mind
  if (read_only) return {P::consistent_read, P::consistent_read | P::write_unchanged};
  return {P::consistent_read | P::write | P::resize, P::consistent_read | P::write_unchanged};
}

}  // namespace

DetectZeroes to_detect_zeroes(schema::BlockdevDetectZeroesOptions option) {
  switch (option) {
    case schema::BlockdevDetectZeroesOptions::off: return DetectZeroes::off;
    case schema::BlockdevDetectZeroesOptions::on: return DetectZeroes::on;
    case schema::BlockdevDetectZeroesOptions::unmap: return DetectZeroes::unmap;
  }
  return DetectZeroes::off;
}

Result<std::uint64_t> to_unsigned(const char* name, std::int64_t given) {
  if (given >= 0) return static_cast<std::uint64_t>(given);
  return Error(Errc::invalid_argument, fmt::format("Parameter '{}' expects a non-negative number below 2^64", name));
}

Result<RawOptions> to_raw_options(const schema::BlockdevOptionsRaw& given) {
  RawOptions options;
  const Result<std::uint64_t> offset = to_unsigned("offset", given.offset.value_or(0));
  const Result<std::uint64_t> size = to_unsigned("size", given.size.value_or(0));
  if (!offset) return offset.error();
  if (!size) return size.error();
  options.offset = *offset;
  if (given.size) options.size = *size;
  return options;
}

Task<BlockNode*> NodeOpener::add(BlockdevOptions options) {
  if (!options.node_name) co_await Error(Errc::invalid_argument, "'node-name' must be specified for the root node");
  std::vector<std::string> opened;
  Inherited top;
  top.opened = &opened;
  co_return co_await clean_up_on_error(open(std::move(options), top), opened);
}

Task<BlockNode*> NodeOpener::resolve(schema::BlockdevRef reference) {
  std::vector<std::string> opened;
  Inherited top;
  top.opened = &opened;
  co_return co_await clean_up_on_error(resolve(std::move(reference), top), opened);
}

Task<BlockNode*> NodeOpener::clean_up_on_error(Task<BlockNode*> opening, const std::vector<std::string>& opened) {
  auto node = co_await std::move(opening).result();
  if (node) co_return *node;
  for (auto name = opened.rbegin(); name != opened.rend(); ++name)
    if (BlockNode* left = graph_.find(*name)) (void)co_await graph_.release(*left).result();
  co_await node.error();
}

Task<BlockNode*> NodeOpener::resolve(schema::BlockdevRef reference, Inherited parent) {
  if (const auto* name = std::get_if<std::string>(&reference.value)) {
    BlockNode* node = co_await unwrap(graph_.lookup(*name));
    if (!parent.read_only) co_await begin_to_write(*node);
    co_return node;
  }
  parent.inlined = true;
  co_return co_await open(std::move(*std::get<schema::Box<BlockdevOptions>>(reference.value)), parent);
}

Task<BlockNode*> NodeOpener::open(BlockdevOptions options, Inherited parent) {
  // Before anything is opened, and made if it is not there.
  if (options.node_name) co_await unwrap(graph_.check_name(*options.node_name));
  Inherited own = parent;
  own.read_only = options.read_only.value_or(parent.read_only);
  own.auto_read_only = options.auto_read_only.value_or(parent.auto_read_only);
  own.force_share = options.force_share.value_or(parent.force_share);
  own.active = options.active.value_or(parent.active);
  own.writes_when_active = !own.active && !own.read_only;
  const bool stores = options.driver == BlockdevDriver::file || options.driver == BlockdevDriver::host_device;
  const bool waits_for_writers = stores && own.active && own.auto_read_only && !parent.inlined && !options.tracking;
  if (waits_for_writers) own.read_only = true;
  if (!own.active) own.read_only = true;
  if (options.cache) own.cache = *options.cache;
  own.unmap = options.discard ? *options.discard == schema::BlockdevDiscardOptions::unmap : parent.inlined;
  if (own.force_share && (!own.read_only || own.writes_when_active))
    co_await Error(Errc::invalid_argument, "force-share=on can only be used with read-only images");
  Json given = schema::to_json(options);
  const auto* image = std::get_if<schema::BlockdevOptionsQcow2>(&options.branch);
  const bool found_below = image && !image->backing;
  auto driver = co_await open_driver(options, own);
  NodeOptions node;
  node.name = options.node_name.value_or("");
  node.read_only = own.read_only;
  node.active = own.active;
  node.writes_when_active = own.writes_when_active;
  node.read_only_fixed = options.read_only.has_value();
  node.given = std::move(given);
  node.backing_found = found_below;
  node.monitor_owned = !parent.inlined;
  node.discard = own.unmap;
  node.detect_zeroes = to_detect_zeroes(options.detect_zeroes);
  node.cache_direct = own.cache.direct;
  node.cache_no_flush = own.cache.no_flush;
  if (node.detect_zeroes == DetectZeroes::unmap && !node.discard) {
    (void)co_await driver->close().result();
    co_await Error(Errc::invalid_argument, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
  }
  if (options.tracking) node.tracking = tracking_options(*options.tracking);
  BlockNode* added = co_await graph_.add(std::move(node), std::move(driver));
  own.opened->push_back(added->name());
  if (!own.active || (image_bitmaps_ != ImageBitmaps::followed && image_with_bitmaps(*added))) co_return added;
  const auto tracked = co_await open_tracking(*added).result();
  const auto is_persistent = [](const auto& bitmap) { return bitmap->persistent(); };
  const auto& bitmaps = added->bitmaps().all();
  if (waits_for_writers && std::any_of(bitmaps.begin(), bitmaps.end(), is_persistent)) (void)co_await begin_to_write(*added).result();
  if (tracked) co_return added;
  own.opened->pop_back();
  (void)co_await graph_.remove(*added).result();
  co_await tracked.error();
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_driver(BlockdevOptions& options, Inherited& own) {
  switch (options.driver) {
    case BlockdevDriver::file:
    case BlockdevDriver::host_device: return open_file_or_device(options, own);
    case BlockdevDriver::nbd: return open_nbd(std::get<schema::BlockdevOptionsNbd>(options.branch), own);
    case BlockdevDriver::null_co:
    case BlockdevDriver::null_aio:
    case BlockdevDriver::memory: return open_volatile(options);
    case BlockdevDriver::raw: return open_raw(std::get<schema::BlockdevOptionsRaw>(options.branch), own);
    case BlockdevDriver::qcow2: return open_qcow2(std::get<schema::BlockdevOptionsQcow2>(options.branch), own);
    case BlockdevDriver::copy_before_write:
      return open_copy_before_write(std::get<schema::BlockdevOptionsCbw>(options.branch), own);
    case BlockdevDriver::snapshot_access:
      return open_snapshot_access(std::get<schema::BlockdevOptionsGenericFormat>(options.branch), own);
    case BlockdevDriver::copy_on_read: return open_copy_on_read(std::get<schema::BlockdevOptionsCor>(options.branch), own);
    case BlockdevDriver::compress:
      return open_compress(std::get<schema::BlockdevOptionsGenericFormat>(options.branch), own);
    case BlockdevDriver::throttle: return open_throttle(std::get<schema::BlockdevOptionsThrottle>(options.branch), own);
    case BlockdevDriver::blkdebug: return open_blkdebug(std::get<schema::BlockdevOptionsBlkdebug>(options.branch), own);
    case BlockdevDriver::fault: return open_fault(std::get<schema::BlockdevOptionsFault>(options.branch), own);
  }
  TM_ASSERT(false);
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_file_or_device(const BlockdevOptions& options, Inherited& own) {
  const auto& given = std::get<schema::BlockdevOptionsFile>(options.branch);
  FileOptions file;
  file.filename = given.filename;
  file.read_only = own.read_only;
  file.direct = own.cache.direct;
  file.locking = given.locking != schema::OnOffAuto::off;
  file.force_share = own.force_share;
  file.active = own.active;
  const bool device = options.driver == BlockdevDriver::host_device;
  auto open = [&](FileOptions how) {
    return device ? open_host_device(graph_.reactor(), std::move(how)) : open_file(graph_.reactor(), std::move(how));
  };
  auto driver = co_await open(file).result();
  const bool refused = !driver && driver.error().code() == Errc::permission;
  if (refused && own.auto_read_only && !own.read_only) {
    file.read_only = own.read_only = true;
    driver = co_await open(file).result();
  }
  co_return co_await unwrap(std::move(driver));
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_nbd(const schema::BlockdevOptionsNbd& given, Inherited& own) {
  NbdOptions nbd;
  if (const auto* inet = std::get_if<schema::InetSocketAddress>(&given.server.branch)) {
    nbd.server.kind = SocketAddress::Kind::inet;
    nbd.server.host = inet->host;
    nbd.server.port = inet->port;
  } else {
    nbd.server.path = std::get<schema::UnixSocketAddress>(given.server.branch).path;
  }
  nbd.export_name = given.export_.value_or("");
  nbd.read_only = own.read_only && !own.writes_when_active;      // what the server says counts for later, too
  nbd.reconnect_delay = std::chrono::seconds(given.reconnect_delay);
  nbd.open_timeout = std::chrono::seconds(given.open_timeout);
  nbd.given_up = graph_.openings();
  auto driver = co_await tidemark::open_nbd(graph_.reactor(), nbd).result();
  const bool refused = !driver && driver.error().code() == Errc::permission;
  if (refused && own.auto_read_only && !nbd.read_only) {
    nbd.read_only = own.read_only = true;
    own.writes_when_active = false;
    driver = co_await tidemark::open_nbd(graph_.reactor(), nbd).result();
  }
  co_return co_await unwrap(std::move(driver));
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_volatile(const BlockdevOptions& options) {
  if (const auto* memory = std::get_if<schema::BlockdevOptionsMemory>(&options.branch)) {
    MemoryOptions given;
    given.size = memory->size;
    co_return co_await unwrap(open_memory(given));
  }
  const auto& null = std::get<schema::BlockdevOptionsNull>(options.branch);
  NullOptions given;
  if (null.size) given.size = co_await unwrap(to_unsigned("size", *null.size));
  given.latency_ns = null.latency_ns;
  given.read_zeroes = null.read_zeroes;
  given.aio = options.driver == BlockdevDriver::null_aio;
  co_return co_await unwrap(open_null(graph_.reactor(), given));
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_raw(schema::BlockdevOptionsRaw& raw, const Inherited& own) {
  const RawOptions given = co_await unwrap(to_raw_options(raw));
  // Nothing is looked at meanwhile: it needs what its users will.
  BlockNode* storage = co_await resolve(std::move(raw.file), own);
  if (storage->active() && storage->read_only() && !own.read_only)
    co_await Error(Errc::permission, fmt::format("Block node '{}' is read-only", storage->name()), EROFS);
  const Permissions none{Permissions::none, Permissions::all};
  auto file = co_await unwrap(Edge::attach(*storage, Role::file, none, "an image being opened"));
  co_return co_await unwrap(RawDriver::open(std::move(file), given));
}

Task<std::unique_ptr<Edge>> NodeOpener::attach(schema::BlockdevRef reference, Role role, Inherited own) {
  BlockNode* node = co_await resolve(std::move(reference), own);
  co_return co_await unwrap(Edge::attach(*node, role, opening_permissions(role, own.read_only, own.active), "an image being opened"));
}

}  // namespace tidemark
