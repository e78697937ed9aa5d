// NbdConnection: one client from its accept to its end.
//
// Lives in the coroutine that serves it.  finish() and drop() may be called at any time before run()
// ends, any number of times.
#pragma once

#include "export/nbd/transmission.hpp"

namespace tidemark {

class NbdConnection {
 public:
  NbdConnection(Socket socket, const NbdExportMap& exports, BufferPool& pool, Duration handshake_max)
      : socket_(std::move(socket)), exports_(exports), pool_(pool), handshake_max_(handshake_max) {}
  NbdConnection(const NbdConnection&) = delete;

  // Serves the client and closes the socket.  A client's doings are no error of ours: never fails.
  Task<> run();

  // Takes no more requests; what is in flight is answered.  Ends a handshake.
  void finish() noexcept { stop_.request(); }
  // Answers nothing any more; what is in flight below still ends first.
  void drop() noexcept {
    stop_.request();
    drop_.request();
  }
  // What it chose; null during the handshake.
  const NbdExport* chosen() const noexcept { return chosen_; }

 private:
  Task<> serve();
  Task<std::optional<NbdAgreement>> shake_hands();
  Task<> expire(CancelToken token);

  Socket socket_;
  const NbdExportMap& exports_;
  BufferPool& pool_;
  Duration handshake_max_;                   // 0: no limit
  CancelSource stop_, drop_;
  const NbdExport* chosen_ = nullptr;
};

}  // namespace tidemark
