// NbdSession: the way to an export that outlives its connections.
//
// Keeps a link, and makes a new one in the background when it ends.  Requests that a link did not
// answer are given to the next one, for as long as the reconnect delay lets them wait.  Before them it gets what the server has
// answered since the last flush: who was told that it is written is told by the next flush that it is durable, or that it is lost.
//
// A new link must offer what the first one did: the export has not shrunk, has not become read-only
// and can do all that this client came to rely on.
#pragma once

#include <memory>

#include "storage/nbd.hpp"
#include "storage/nbd_unflushed.hpp"
#include "task/group.hpp"
#include "task/range_lock.hpp"

namespace tidemark {

// One thread.  close() is awaited before it goes (asserted).
class NbdSession {
 public:
  NbdSession(Reactor& reactor, NbdOptions options);
  NbdSession(const NbdSession&) = delete;
  ~NbdSession() { TM_ASSERT(!link_); }

  Reactor& reactor() const noexcept { return reactor_; }
  const NbdOptions& options() const noexcept { return options_; }
  const NbdTerms& terms() const noexcept { return terms_; }     // of the first connection
  std::string describe() const;                                 // "NBD server '/run/a.sock'"

  Task<> open();
  // Ends with the server's error, or with Errc::disconnected.
  Task<> perform(NbdExchange exchange, std::optional<nbd::Extent>* extent = nullptr);
  // What has not been answered ends with Errc::cancelled, for which the connection is given up.
  Task<> cancel_in_flight();
  // Nobody writes any more: what is not durable is flushed, if there is a connection.  Another one does not get it, for the export
  // may be somebody else's by then; what is lost so the next flush says once, for who wrote it may still ask.
  void writers_gone() noexcept;
  // The same; and what is being sent again has been answered.  Errc::timed_out when it is not within a second: the connection is
  // given up, and the server may still write what it was sent.
  Task<> end_writing();
  // Waits a while for a flush that nobody waits for, and fails when that does.
  Task<> close();

 private:
  // A first one, until then.
  Task<std::shared_ptr<NbdLink>> connect(Instant until = no_deadline);
  Task<std::shared_ptr<NbdLink>> connect_once(CancelToken token);
  Task<> expire(Instant until, CancelToken token, bool& late);
  Result<> check_terms(const NbdTerms& terms) const;
  // Whether requests that a link did not answer may be sent again by the next one.
  static bool may_repeat(const Error& why) noexcept;
  // Links after links, each from its beginning to its end.
  Task<> keep_connected(std::shared_ptr<NbdLink> link);
  void run(std::shared_ptr<NbdLink> link);
  Task<> run_to_its_end(std::shared_ptr<NbdLink> link);
  // One by which requests may go; null when the session is closed.
  Task<std::shared_ptr<NbdLink>> reconnect(bool at_once);
  Task<> lose_patience(CancelToken token);
  // Whether the server has them all again.
  Task<bool> repeat_unflushed(std::shared_ptr<NbdLink> link);
  Task<> repeat(NbdLink& link, const UnflushedWrites::Piece& piece);
  // Gives the link up when it has answered nothing of that for a while.
  Task<> give_up_silent(NbdLink& link, CancelToken token);
  Task<std::shared_ptr<NbdLink>> current_link(Instant until);
  Error failure(const NbdExchange& exchange) const;
  // Until a link has answered it.
  Task<> transmit(NbdExchange& exchange);
  Task<> transmit_change(NbdExchange& exchange);
  Task<> transmit_flush(NbdExchange& exchange);
  void note_answer(const NbdExchange& exchange, std::uint64_t newest_before);
  void begin_flush() noexcept;
  void flush_ended() noexcept;
  void drop_ownerless();
  Task<> flush_early();
  Task<> wait_flushed_early();
  // One that changes something waits for room to remember that first.
  Task<> take_slot(bool changes);
  bool full() const noexcept;

  Reactor& reactor_;
  const NbdOptions options_;
  NbdTerms terms_;
  bool opened_ = false, closing_ = false;
  std::shared_ptr<NbdLink> link_;          // null: lost
  std::shared_ptr<NbdLink> next_;          // gets unflushed_ before it is link_
  bool served_ = false;                    // link_ has answered somebody
  bool patient_ = true;                    // requests may wait for a link
  std::optional<Error> lost_;              // why there is no link
  UnflushedWrites unflushed_;
  std::uint64_t ownerless_ = 0;            // up to this number those who wrote them have gone: flushed, not sent again
  std::uint64_t repeated_ = 0;             // answers to what was sent again
  bool flushing_early_ = false;            // unasked: they are many, or their writers have gone
  unsigned flushes_ = 0;                   // asked for by others, and not answered
  std::optional<Error> lost_writes_;       // what was answered is not there; flushes say so from then on
  std::optional<Error> lost_once_;         // may not be there, as after any flush that fails: the next one says so
  Duration silence_;                       // that a server may keep while it is sent again what it has lost; twice that the next time
  Event changed_;                          // any of these has
  std::optional<CancelSource> attempt_;    // ends a connection being made, or the wait before it
  Semaphore slots_;                        // for requests
  RangeLock changes_;                      // one after the other where they overlap: answers come in the order of their effects
  Gate running_;
};

}  // namespace tidemark
