// nbd_serve: one file served by our NBD server, for tests and measurements with real clients.
//
//   nbd_serve [OPTION...] SOCKET FILE     (SOCKET is a path, or tcp:HOST:PORT; prints "ready URI")
//     --read-only  --direct  --threads  --depth  --max-connections=N
//     --dirty=NAME:OFFSET:LENGTH          a bitmap of 64 KiB granules with one dirty range
//
// Ends orderly on SIGTERM and SIGINT.
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <optional>

#include "block/graph.hpp"
#include "export/nbd/server.hpp"
#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"
#include "storage/file.hpp"

using namespace tidemark;

namespace {

struct Options {
  std::string socket, file;
  bool read_only = false, direct = false, threads = false, depth = false;
  std::uint32_t max_connections = 100;
  std::vector<std::string> dirty;
};

std::optional<std::string> value_of(std::string_view argument, std::string_view name) {
  if (!argument.starts_with(name)) return std::nullopt;
  return std::string(argument.substr(name.size()));
}

bool parse(int argc, char** argv, Options& options) {
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--read-only") options.read_only = true;
    else if (argument == "--direct") options.direct = true;
    else if (argument == "--threads") options.threads = true;
    else if (argument == "--depth") options.depth = true;
    else if (auto dirty = value_of(argument, "--dirty=")) options.dirty.push_back(*dirty);
    else if (auto max = value_of(argument, "--max-connections="))
      options.max_connections = static_cast<std::uint32_t>(std::strtoul(max->c_str(), nullptr, 10));
    else if (argument.starts_with("--")) return false;
    else names.emplace_back(argument);
  }
  if (names.size() != 2) return false;
  options.socket = names[0];
  options.file = names[1];
  return true;
}

SocketAddress address_of(const std::string& socket) {
  if (!socket.starts_with("tcp:")) return {SocketAddress::Kind::unix_path, socket, "", ""};
  const std::size_t colon = socket.rfind(':');
  return {SocketAddress::Kind::inet, "", socket.substr(4, colon - 4), socket.substr(colon + 1)};
}

std::string uri_of(const SocketAddress& address) {
  if (address.kind == SocketAddress::Kind::unix_path) return "nbd+unix:///?socket=" + address.path;
  return "nbd://" + address.describe();
}

// "NAME:OFFSET:LENGTH"
Result<std::string> add_bitmap(BlockNode& node, const std::string& text) {
  char name[64];
  unsigned long long offset = 0, length = 0;
  if (std::sscanf(text.c_str(), "%63[^:]:%llu:%llu", name, &offset, &length) != 3)
    return Error(Errc::invalid_argument, "not NAME:OFFSET:LENGTH: " + text);
  auto bitmap = node.bitmaps().add(name, node.size(), 64 * KiB);
  if (!bitmap) return bitmap.error();
  if (!fits(offset, length, node.size()))
    return Error(Errc::out_of_range, "beyond the end: " + text);
  (*bitmap)->bits().set({offset, length});
  (*bitmap)->set_enabled(false);
  return std::string(name);
}

class Program {
 public:
  Program(IoBackend& io, Options options)
      : options_(std::move(options)), reactor_(io), graph_(reactor_) {}

  int run(const std::atomic<bool>& stop) {
    const Result<void> started = reactor_.run(start());
    if (!started) std::fprintf(stderr, "nbd_serve: %s\n", started.error().message().c_str());
    if (started) serve_until(stop);
    const bool closed = reactor_.run(graph_.close_all()).ok();
    return started && closed ? 0 : 1;
  }

 private:
  Task<BlockNode*> open_file_node() {
    FileOptions file;
    file.filename = options_.file;
    file.read_only = options_.read_only;
    file.direct = options_.direct;
    auto driver = co_await open_file(reactor_, file);
    NodeOptions node;
    node.name = "file";
    node.read_only = options_.read_only;
    co_return co_await graph_.add(node, std::move(driver));
  }
  Task<> start() {
    BlockNode* disk = co_await open_file_node();
    NbdServerOptions server;
    server.addresses = {address_of(options_.socket)};
    server.max_connections = options_.max_connections;
    NbdExportOptions disk_options;
    disk_options.description = "a disk of nbd_serve";
    disk_options.writable = !options_.read_only;
    disk_options.allocation_depth = options_.depth;
    for (const std::string& text : options_.dirty) {
      NbdExportOptions::BitmapName bitmap;
      bitmap.name = co_await unwrap(add_bitmap(*disk, text));
      disk_options.bitmaps.push_back(std::move(bitmap));
    }
    server_ = co_await NbdServer::listen(reactor_, server);
    co_await unwrap(server_->add_export(*disk, disk_options));
  }
  void serve_until(const std::atomic<bool>& stop) {
    auto serving = server_->serve().release();
    serving.resume();
    std::printf("ready %s\n", uri_of(server_->addresses().at(0)).c_str());
    std::fflush(stdout);
    while (!stop) reactor_.turn();
    (void)reactor_.run(server_->stop(NbdServer::StopMode::orderly));
    while (!serving.promise().finished) reactor_.turn();
    serving.destroy();
  }

  Options options_;
  Reactor reactor_;
  Graph graph_;
  std::unique_ptr<NbdServer> server_;
};

std::atomic<bool> stopped = false;
IoBackend* woken = nullptr;

void on_signal(int) {
  stopped = true;
  woken->wake();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fprintf(stderr, "usage: nbd_serve [OPTION...] SOCKET FILE\n");
    return 2;
  }
  auto io = options.threads ? make_threads_backend() : make_uring_backend();
  if (!io) io = make_threads_backend();
  if (!io) {
    std::fprintf(stderr, "nbd_serve: %s\n", io.error().message().c_str());
    return 1;
  }
  woken = io->get();
  std::signal(SIGTERM, on_signal);
  std::signal(SIGINT, on_signal);
  std::signal(SIGPIPE, SIG_IGN);
  return Program(**io, options).run(stopped);
}
