// TunableBackend: what of a backend can be changed while it works.  Called on its reactor's thread.
#pragma once

#include "io/backend.hpp"

namespace tidemark {

class TunableBackend {
 public:
  virtual ~TunableBackend() = default;

  // How many worker threads run at a time; those that are at work go on.
  virtual void set_workers_max(unsigned workers_max) = 0;
  // How long it looks for an event before it sleeps; a backend that never does leaves it so.
  virtual void set_busy_wait_max(Duration longest) = 0;
};

}  // namespace tidemark
