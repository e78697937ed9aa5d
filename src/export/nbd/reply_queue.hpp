// ReplyQueue: what one client has yet to be sent, in order, with as few system calls as possible.
//
// Replies that come together leave together: whoever handles a batch of requests holds the queue and
// flushes it at the end; replies that come otherwise leave in the next turn of the reactor.  A client
// that does not read stalls run(), nothing else; what its replies hold is bound by their Credit.
//
// Invariant: one send at a time; the first reply is sent up to `sent_`.  After a send failed, replies
// are dropped.
#pragma once

#include <array>
#include <deque>
#include <vector>

#include "export/nbd/buffer_pool.hpp"
#include "export/nbd/credit.hpp"
#include "io/socket.hpp"

namespace tidemark {

struct NbdReply {
  static constexpr std::size_t head_max = 48;
  std::array<std::byte, head_max> head;      // header and the fixed part of the payload
  std::size_t head_size = 0;
  Bytes body;                                // the rest: in `buffer`, in a later reply's, or static
  PooledBuffer buffer;
  Credit credit;

  std::size_t size() const noexcept { return head_size + body.size(); }
};

class ReplyQueue {
 public:
  // `drop` ends a send that waits.  When one fails both are asked: nobody is there for an answer.
  ReplyQueue(Socket& socket, CancelSource& stop, CancelSource& drop)
      : socket_(socket), stop_(stop), drop_(drop), wake_(socket.reactor()) {}
  ReplyQueue(const ReplyQueue&) = delete;

  void push(NbdReply reply);
  // Sends what the socket takes without waiting; leaves the rest to run().
  void flush() noexcept;
  // Between the two, replies leave only when there are many.
  void hold() noexcept { held_ = true; }
  void unhold() noexcept {
    held_ = false;
    flush();
  }

  // The sender.  Ends after close() when all is sent, or when the connection breaks.
  Task<> run();
  void close() noexcept;

 private:
  Buffers gather();
  void advance(std::int64_t result) noexcept;
  void wake() noexcept {
    if (!wake_.empty()) wake_.wake_one();
  }

  Socket& socket_;
  CancelSource& stop_;
  CancelSource& drop_;
  WaitQueue wake_;                           // run() waits here for work
  std::deque<NbdReply> replies_;
  std::vector<iovec> pieces_;                // of the send under way
  std::size_t queued_ = 0;                   // bytes of all replies
  std::size_t sent_ = 0;                     // of the first reply
  bool sending_ = false, held_ = false, closed_ = false, failed_ = false;
};

}  // namespace tidemark
