// Monitors: the character devices of the command line, and QMP on them.
#pragma once

#include <map>
#include <optional>

#include "control/qmp/qmp_server.hpp"
#include "schema/options.hpp"
#include "task/group.hpp"

namespace tidemark {

class Monitors {
 public:
  Monitors(Reactor& reactor, TaskGroup& group, QmpServer& server) : reactor_(reactor), group_(group), server_(server) {}

  // Listens, or connects; with wait=on returns once a first client is there.  Whether or not a monitor follows.
  Task<> add_chardev(schema::ChardevOptions options, CancelToken stopping);
  Result<> add_monitor(const schema::MonitorOptions& options, CancelToken stopping);
  // Listens no more, and takes no more commands; sessions are told what happens until the server's end().
  Task<> stop();

 private:
  struct Chardev {
    std::optional<Listener> listener;
    std::optional<Socket> client;                // that nobody serves yet
    bool in_use = false;                         // by a monitor
  };
  Task<> open(Chardev& chardev, schema::ChardevSocket options, CancelToken stopping);
  Task<> listen(Listener& listener, bool pretty, CancelToken stopping);

  Reactor& reactor_;
  TaskGroup& group_;
  QmpServer& server_;
  std::map<std::string, Chardev> chardevs_;      // by id; as long as listen() may look at their listeners
};

}  // namespace tidemark
