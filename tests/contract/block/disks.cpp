#include "tests/contract/block/disks.hpp"

#include "export/nbd/server.hpp"
#include "filter/copy_before_write.hpp"
#include "filter/fault.hpp"
#include "format/qcow2/driver.hpp"
#include "format/raw/raw.hpp"
#include "storage/file.hpp"
#include "storage/memory.hpp"
#include "storage/nbd.hpp"
#include "storage/null.hpp"
#include "task/detached.hpp"

namespace tidemark::contract {
namespace {

using Opened = Task<BlockNode*>;
using Place = DiskPlace;

constexpr Permissions no_permissions;  // the node says what it wants when it is added

Opened add(Place& place, std::unique_ptr<BlockDriver> driver) {
  NodeOptions options;
  return place.graph.add(std::move(options), std::move(driver));
}

Opened memory(Place& place, std::uint64_t size, bool) {
  MemoryOptions options;
  options.size = size;
  return add(place, *open_memory(options));
}

Opened null_zeroes(Place& place, std::uint64_t size, bool) {
  NullOptions options;
  options.size = size;
  options.read_zeroes = true;
  return add(place, *open_null(place.graph.reactor(), options));
}

Opened open_file_node(Place& place, std::uint64_t size, bool create, bool direct) {
  FileOptions options;
  options.filename = place.world.directory() + "/disk";
  options.direct = direct;
  Reactor& reactor = place.graph.reactor();
  if (create) co_await create_file(reactor, options.filename, size, FilePreallocation::off);
  auto driver = co_await open_file(reactor, options);
  co_return co_await add(place, std::move(driver));
}
Opened file_buffered(Place& place, std::uint64_t size, bool create) {
  return open_file_node(place, size, create, false);
}
Opened file_direct(Place& place, std::uint64_t size, bool create) {
  return open_file_node(place, size, create, true);
}

template <bool direct>
Opened device(Place& place, std::uint64_t, bool) {
  FileOptions options;
  options.filename = place.device;
  options.direct = direct;
  auto driver = co_await open_host_device(place.graph.reactor(), options);
  co_return co_await add(place, std::move(driver));
}

Opened raw(Place& place, BlockNode& file, RawOptions options) {
  auto edge = co_await unwrap(Edge::attach(file, Role::file, no_permissions, "raw"));
  auto driver = co_await unwrap(RawDriver::open(std::move(edge), options));
  co_return co_await add(place, std::move(driver));
}
Opened raw_whole(Place& place, std::uint64_t size, bool create) {
  BlockNode* file = co_await file_buffered(place, size, create);
  const RawOptions all;
  co_return co_await raw(place, *file, all);
}
// A part of a file whose rest nothing may touch.
Opened raw_window(Place& place, std::uint64_t size, bool create) {
  BlockNode* file = co_await file_direct(place, size + 1 * MiB, create);
  RawOptions window;
  window.offset = 64 * KiB + 512;
  window.size = size;
  co_return co_await raw(place, *file, window);
}

Task<> create_qcow2(BlockNode& file, std::uint64_t size) {
  using P = Permissions;
  const Permissions maker{P::consistent_read | P::write | P::resize, P::all};
  auto edge = co_await unwrap(Edge::attach(file, Role::root, maker, "creator"));
  Qcow2CreateOptions options;
  options.size = size;
  co_await Qcow2Driver::create(*edge, options);
}
Opened qcow2(Place& place, std::uint64_t size, bool create, bool direct) {
  BlockNode* file = co_await open_file_node(place, 0, create, direct);
  if (create) co_await create_qcow2(*file, size);
  auto edge = co_await unwrap(Edge::attach(*file, Role::file, no_permissions, "qcow2"));
  const Qcow2OpenOptions options;
  auto driver = co_await Qcow2Driver::open(std::move(edge), options);
  co_return co_await add(place, std::move(driver));
}
Opened qcow2_buffered(Place& place, std::uint64_t size, bool create) {
  return qcow2(place, size, create, false);
}
Opened qcow2_direct(Place& place, std::uint64_t size, bool create) {
  return qcow2(place, size, create, true);
}

Opened fault(Place& place, std::uint64_t size, bool create) {
  FaultOptions options;
  options.file = co_await file_direct(place, size, create);
  auto driver = co_await unwrap(open_fault(std::move(options)));
  co_return co_await add(place, std::move(driver));
}

// A disk served by our own server, in this process.
class Served final : public Beside {
 public:
  explicit Served(Reactor& reactor) : graph_(reactor), running_(reactor) {}

  Task<> start(DiskWorld& world, std::uint64_t size, bool create, SocketAddress address) {
    DiskPlace place{graph_, world, {}, {}};
    BlockNode* file = co_await file_buffered(place, size, create);
    NbdServerOptions options;
    options.addresses.push_back(std::move(address));
    server_ = co_await NbdServer::listen(graph_.reactor(), std::move(options));
    run_detached(server_->serve(), running_.enter());
    NbdExportOptions disk;
    disk.name = "disk";
    disk.writable = true;
    co_await unwrap(server_->add_export(*file, std::move(disk)));
  }
  SocketAddress address() const { return server_->addresses().front(); }
  Task<> stop() override {
    co_await server_->stop(NbdServer::StopMode::orderly);
    co_await running_.wait_idle();
    server_.reset();
    co_await graph_.close_all();
  }

 private:
  Graph graph_;
  std::unique_ptr<NbdServer> server_;
  Gate running_;
};

Opened nbd(Place& place, std::uint64_t size, bool create, SocketAddress address) {
  auto served = std::make_unique<Served>(place.graph.reactor());
  co_await served->start(place.world, size, create, std::move(address));
  NbdOptions options;
  options.server = served->address();
  options.export_name = "disk";
  place.beside = std::move(served);
  auto driver = co_await open_nbd(place.graph.reactor(), std::move(options));
  co_return co_await add(place, std::move(driver));
}
Opened nbd_unix(Place& place, std::uint64_t size, bool create) {
  SocketAddress address;
  address.path = place.world.directory() + "/nbd.sock";
  return nbd(place, size, create, std::move(address));
}
Opened nbd_tcp(Place& place, std::uint64_t size, bool create) {
  SocketAddress address;
  address.kind = SocketAddress::Kind::inet;
  address.host = "127.0.0.1";
  address.port = "0";
  return nbd(place, size, create, std::move(address));
}

Opened copy_before_write(Place& place, std::uint64_t size, bool create) {
  CopyBeforeWriteOptions options;
  options.file = co_await file_buffered(place, size, create);
  options.target = co_await memory(place, size, create);
  auto driver = co_await open_copy_before_write(options);
  co_return co_await add(place, std::move(driver));
}

}  // namespace

const std::vector<DiskCase>& disks() {
  static const std::vector<DiskCase> all = {
      {.name = "memory", .open = memory, .resizable = true, .wants_disk = true},
      {.name = "null_co", .open = null_zeroes, .stores = false, .wants_disk = true},
      {.name = "file", .open = file_buffered, .persistent = true, .resizable = true},
      {.name = "file_direct",
       .open = file_direct,
       .persistent = true,
       .resizable = true,
       .wants_disk = true},
      {.name = "device_512",
       .open = device<true>,
       .persistent = true,
       .sector = 512,
       .wants_disk = true},
      {.name = "device_4096",
       .open = device<true>,
       .persistent = true,
       .sector = 4096,
       .wants_disk = true},
      {.name = "device_buffered",
       .open = device<false>,
       .persistent = true,
       .sector = 4096,
       .wants_disk = true},
      {.name = "raw", .open = raw_whole, .persistent = true, .resizable = true},
      {.name = "raw_window", .open = raw_window, .persistent = true, .wants_disk = true},
      {.name = "qcow2", .open = qcow2_buffered, .persistent = true, .resizable = true},
      {.name = "qcow2_direct",
       .open = qcow2_direct,
       .persistent = true,
       .resizable = true,
       .wants_disk = true},
      {.name = "nbd", .open = nbd_unix, .persistent = true},
      {.name = "nbd_tcp", .open = nbd_tcp, .persistent = true, .wants_disk = true},
      {.name = "fault", .open = fault, .persistent = true, .resizable = true, .wants_disk = true},
      {.name = "copy_before_write",
       .open = copy_before_write,
       .persistent = true,
       .resizable = true,
       .wants_disk = true},
  };
  return all;
}

}  // namespace tidemark::contract
