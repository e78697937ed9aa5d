// NbdLink: one connection to an NBD server, in the transmission phase.
//
// Requests are sent in the order they come and answered in any; a receiver puts what comes where the
// request of that cookie wants it.  Whatever is against the protocol ends the link: an unknown
// cookie, data outside of what was asked for or twice, a payload longer than it can be.  So does a
// server that says it is shutting down.
//
// Invariant: a request's memory is touched only while it is in `pending_`, and a request returns only
// when it has left `pending_` and nothing of it is being sent.
#pragma once

#include <cerrno>
#include <map>
#include <optional>

#include "io/aligned.hpp"
#include "nbd/transmission.hpp"
#include "storage/nbd_handshake.hpp"
#include "task/sync.hpp"

namespace tidemark {

// One request and its answer.
struct NbdExchange {
  nbd::Command command{};
  std::uint16_t flags = 0;
  Range range;
  Buffers data;                              // of a write: sent; of a read: filled

  void forget_answer() noexcept {
    lost = false;
    error = 0;
    message.clear();
    extent.reset();
  }

  bool lost = false;                         // not answered: the link ended
  std::uint32_t error = 0;                   // what the server said
  std::string message;
  std::optional<nbd::Extent> extent;         // of block_status: the first
};

// Shared by whoever runs it and its requests.  One thread.
class NbdLink {
 public:
  NbdLink(Socket socket, NbdTerms terms);
  NbdLink(const NbdLink&) = delete;

  // Receives until the link ends; then fails what is pending and closes the socket.
  Task<> run();
  Task<> perform(NbdExchange& exchange);
  // Requests that are not on their way yet are lost; answers still come.
  void send_no_more() noexcept { sends_ = false; }
  // Tells the server that we go, if that does not take long, and ends the link.
  Task<> leave();

  // End the link, and with it all requests.
  void cancel() noexcept {
    why_.reset();                            // nobody is to wait for another one, whatever has ended this one
    end(Error(Errc::cancelled, "Operation canceled", ECANCELED));
  }
  void give_up() noexcept { end(Error(Errc::timed_out, "no answer", ETIMEDOUT)); }
  // One that was answered before it was sent may still wait for the server to take it.
  bool pending() const noexcept { return !pending_.empty() || sending_.locked(); }

  bool ended() const noexcept { return why_.has_value(); }
  bool takes_requests() const noexcept { return sends_ && !ended(); }
  // Why it ended; Errc::invalid_format when the server broke the protocol.
  const Error& why() const noexcept { return *why_; }
  bool over() const noexcept { return over_; }             // run() has ended

 private:
  struct Pending {
    Pending(Executor& executor, NbdExchange& e) : exchange(e), done(executor) {}
    NbdExchange& exchange;
    std::vector<Range> covered;              // of a read: what has come, merged, in order
    Event done;
  };
  using Place = std::map<std::uint64_t, Pending*>::iterator;

  void end(Error why) noexcept;
  void close() noexcept { end(Error(Errc::disconnected, "closed", ESHUTDOWN)); }
  Task<> expire(CancelToken token);
  Task<> send(const NbdExchange& exchange, std::uint64_t cookie);

  Task<> receive();
  Task<> receive_reply();
  Task<> receive_simple(const nbd::ReplyHeader& reply, Place place);
  Task<> receive_chunk(const nbd::ChunkHeader& chunk, Place place);
  Task<> receive_data(const nbd::ChunkHeader& chunk, Pending& pending);
  Task<> receive_hole(const nbd::ChunkHeader& chunk, Pending& pending);
  Task<> receive_status(const nbd::ChunkHeader& chunk, Pending& pending);
  Task<> receive_error(const nbd::ChunkHeader& chunk, Pending& pending);
  Result<> cover(Pending& pending, Range range);
  Result<> check_complete(const Pending& pending) const;
  void finish(Place place) noexcept;

  // The stream: `size` bytes are in the inbox when need() returns, and leave it with take().
  Task<> need(std::size_t size);
  Bytes take(std::size_t size) noexcept;
  Task<> take_into(Buffers into);
  Task<Bytes> payload(const nbd::ChunkHeader& chunk);      // a short one

  Socket socket_;
  const NbdTerms terms_;
  CancelSource stop_;
  std::optional<Error> why_;
  bool over_ = false, sends_ = true;
  Mutex sending_;
  std::map<std::uint64_t, Pending*> pending_;
  std::uint64_t last_cookie_ = 0;
  AlignedBuffer inbox_;
  std::size_t begin_ = 0, end_ = 0;          // what is in it
};

}  // namespace tidemark
