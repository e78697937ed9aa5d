// Monitors: the character devices of the command line, and QMP on them.
#pragma once

#include <map>

#include "control/qmp_server.hpp"
#include "schema/options.hpp"
#include "task/group.hpp"

namespace tidemark {

class Monitors {
 public:
  Monitors(Reactor& reactor, TaskGroup& group, QmpServer& server) : reactor_(reactor), group_(group), server_(server) {}

  Result<> add_chardev(schema::ChardevOptions options);
  // Listens, or connects; with wait=on returns once a first client is there.
  Task<> add_monitor(schema::MonitorOptions options, CancelToken stopping);
  // Listens no more; sessions end after what they run.  Awaited before the server goes.
  Task<> stop();

 private:
  Task<> listen(Listener& listener, bool pretty, CancelToken stopping);

  Reactor& reactor_;
  TaskGroup& group_;
  QmpServer& server_;
  std::map<std::string, schema::ChardevOptions> chardevs_;      // not taken by a monitor yet
  std::vector<std::unique_ptr<Listener>> listeners_;            // as long as listen() may look at them
};

}  // namespace tidemark
