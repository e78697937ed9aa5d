// NbdServer: listens on sockets and serves block nodes to NBD clients.
//
// serve() runs for the server's life in a task group of its owner, from right after listen(); stop()
// ends it and is awaited before the server goes (asserted).  All calls are on the server's reactor; a
// client that has chosen an export is served on that of the export's node, which outlives the server.
// A client costs its Credit and a few buffers at most and holds up nobody else; one that says nothing makes
// room for those who do.
#pragma once

#include <list>

#include "export/nbd/connection.hpp"

namespace tidemark {

struct NbdServerOptions {
  std::vector<SocketAddress> addresses;
  std::uint32_t max_connections = 100;       // that are served; 0: unlimited; 1: exports do not offer multi-conn
  // At a time; beyond that who has been silent longest is dropped, when it has been for a while.
  std::uint32_t handshakes_max = 64;
  Duration handshake_max = std::chrono::seconds(10);     // 0: unlimited
  Duration stop_max = std::chrono::seconds(2);   // what an orderly stop gives clients to read answers
};

class NbdServer {
 public:
  static Task<std::unique_ptr<NbdServer>> listen(Reactor& reactor, NbdServerOptions options);
  NbdServer(const NbdServer&) = delete;
  ~NbdServer();

  // Where it listens; a port 0 that was asked for is resolved.
  std::vector<SocketAddress> addresses() const;
  std::uint64_t clients() const noexcept;    // that are served

  Task<> serve();

  // Errors as QEMU's block-export-add of an NBD export.
  Result<std::shared_ptr<NbdExport>> add_export(BlockNode& node, NbdExportOptions options);
  // The same of a node on another thread.
  Task<std::shared_ptr<NbdExport>> add_export_at(Reactor& home, BlockNode& node, NbdExportOptions options);
  const NbdExportMap& exports() const noexcept { return exports_; }

  // From now on no client finds it.  `safe` fails when clients are connected; `hard` drops them.
  // The caller awaits close() of what it gets.
  enum class RemoveMode : std::uint8_t { safe, hard };
  Result<std::shared_ptr<NbdExport>> remove_export(std::string_view name, RemoveMode mode);

  // Stops listening, ends the clients (orderly: what they asked for is answered, if that is soon) and closes each
  // export when its last client has gone.  Returns when serve() has ended: when the last request has, which may hang.
  enum class StopMode : std::uint8_t { orderly, hard };
  Task<> stop(StopMode mode);

 private:
  NbdServer(Reactor& reactor, NbdServerOptions options);
  Result<> check_new(NbdExportOptions& options) const;
  Task<> open_listeners();
  Task<> close_listeners();
  Task<> accept_clients(Listener& listener, TaskGroup& clients);
  Task<> wait_for_room(CancelToken token);
  std::uint64_t on_their_way() const noexcept { return clients_.size() - clients(); }
  NbdConnection* longest_silent() const noexcept;
  Task<> serve_client(Socket socket);
  Task<> drop_late_clients(CancelToken token);
  Task<> wait_ended(StopMode mode);
  static Task<> close_export(std::shared_ptr<NbdExport> disk);

  Reactor& reactor_;
  const NbdServerOptions options_;
  std::vector<Listener> listeners_;
  NbdExportMap exports_;
  NbdPools pools_;
  Semaphore slots_;                          // for clients that are served
  Event left_hall_;                          // one does not wait for a slot any more, or has gone
  std::list<NbdConnection*> clients_;
  CancelSource stopping_;
  Event ended_;
};

}  // namespace tidemark
