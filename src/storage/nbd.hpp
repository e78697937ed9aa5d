// The storage that is an export of an NBD server.
//
// One connection carries many requests at a time, answered in any order.  When it is lost, it is
// made again in the background; requests wait for that up to the reconnect delay and are then sent
// again, later ones fail at once until there is a connection.  Before them goes what was answered
// since the last flush, which a server that was started anew may have lost: it is kept in memory,
// and flushed unasked when that is more than 32 MiB.  When its last writer has gone it is flushed if
// there is a connection; another one does not get it, and what is lost so the next flush says once.
// To become read-only it waits a second at most for the answers to what is being sent again, and
// fails with Errc::timed_out without them.  A server that breaks the protocol fails the requests
// under way, and is connected to again as if it had gone away.
#pragma once

#include <memory>
#include <string>

#include "block/driver.hpp"
#include "io/socket.hpp"

namespace tidemark {

struct NbdOptions {
  SocketAddress server;
  std::string export_name;
  bool read_only = false;
  Duration reconnect_delay{0};  // how long requests wait for a lost connection to return
  Duration open_timeout{0};     // how long to try to connect at first; 0: once
  CancelToken given_up;         // nobody waits for it to open any more
};

// Errors: Errc::permission when the export is read-only and is to be written.
Task<std::unique_ptr<BlockDriver>> open_nbd(Reactor& reactor, NbdOptions options);

}  // namespace tidemark
