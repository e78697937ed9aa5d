// Signals as something to wait for: SIGINT, SIGTERM and SIGHUP arrive on the reactor.  One watch a process.
#pragma once

#include <initializer_list>

#include "io/socket.hpp"

namespace tidemark {

class SignalWatch {
 public:
  // From here on the signals no longer end the process, nor does a write that is too large for its limits.
  static Result<SignalWatch> create(Reactor& reactor, std::initializer_list<int> signals);
  SignalWatch(SignalWatch&&) = default;
  Task<int> next(CancelToken token = {});
  Task<> close();                          // the signals have their default effect again

 private:
  SignalWatch(Reactor& reactor, Handle handle, std::initializer_list<int> signals)
      : socket_(reactor, handle), signals_(signals) {}
  Socket socket_;
  std::vector<int> signals_;
};

}  // namespace tidemark
