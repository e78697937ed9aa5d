// NbdConnection: one client from its accept to its end.
//
// Lives in the coroutine that serves it, on the server's thread; the requests are served on the thread
// of the export that the client chose.  finish() and drop() may be called at any time before run() ends,
// any number of times.
#pragma once

#include "export/nbd/pools.hpp"
#include "export/nbd/transmission.hpp"

namespace tidemark {

class NbdConnection {
 public:
  NbdConnection(Socket socket, const NbdExportMap& exports, NbdPools& pools, Duration handshake_max,
                Semaphore& slots, Event& left_hall)
      : socket_(std::move(socket)), here_(socket_.reactor()), exports_(exports), pools_(pools),
        handshake_max_(handshake_max), admission_(slots, left_hall) {}
  NbdConnection(const NbdConnection&) = delete;

  // Serves the client and closes the socket.  A client's doings are no error of ours: never fails.
  Task<> run();

  // Takes no more requests; what is in flight is answered.  Ends a handshake.
  void finish();
  // Answers nothing any more; what is in flight below still ends first.
  void drop();
  bool dropped() const noexcept { return dropped_; }
  const NbdAdmission& admission() const noexcept { return admission_; }
  // What it chose; null during the handshake.
  const NbdExport* chosen() const noexcept { return chosen_; }

 private:
  Task<> serve();
  Task<std::optional<NbdAgreement>> shake_hands();
  Task<> expire(CancelToken token);              // but for the time that it waits for us
  Task<> serve_requests(NbdAgreement agreement);
  Task<> transmit(NbdAgreement agreement, BufferPool& pool);
  void ask(CancelSource& first, CancelSource* second);

  Socket socket_;
  Reactor& here_;
  const NbdExportMap& exports_;
  NbdPools& pools_;
  Duration handshake_max_;                   // 0: no limit
  NbdAdmission admission_;
  CancelSource stop_, drop_;                 // used where the client is served
  Reactor* away_ = nullptr;                  // there, when that is another thread
  bool served_ = false, dropped_ = false;
  const NbdExport* chosen_ = nullptr;
};

}  // namespace tidemark
