// NbdTransmission: the requests of one client, from the end of its handshake to its last reply.
//
// One coroutine receives: it cuts requests out of the stream, refuses what the protocol or the export
// forbids, and starts a coroutine for each of the others; these run side by side and answer in the
// order they finish.  What a client has in flight holds Credit; without credit the receiver stops
// reading, so a client can make only itself wait.
//
// Invariant: the receiver does not suspend while it holds the reply queue.
#pragma once

#include "export/nbd/handshake.hpp"
#include "export/nbd/reply_queue.hpp"
#include "task/group.hpp"

namespace tidemark {

class NbdTransmission {
 public:
  static constexpr std::size_t working_memory = 1 * MiB;     // of a request without data

  // `stop` ends receiving, and what is in flight is still answered; `drop` is asked together with it
  // to give up answering too: the connection ends then, whatever is in flight.  All that is referred to outlives this.
  NbdTransmission(Socket& socket, NbdAgreement agreement, BufferPool& pool, CancelSource& stop,
                  CancelSource& drop);
  NbdTransmission(const NbdTransmission&) = delete;

  // Until the client disconnects, breaks the protocol, or `stop`, and all requests have ended.
  Task<> run();

 private:
  using Command = nbd::Command;
  using Request = nbd::Request;
  using Status = nbd::Status;

  // Why a request is refused before it is begun.
  struct Verdict {
    Status status = Status::ok;
    std::string_view reason;
  };

  // receive.cpp: requests off the stream
  Task<> receive(TaskGroup& requests);
  Task<> hang_up();
  Task<> take(Request request, TaskGroup& requests);
  void start(const Request& request, PooledBuffer data, Credit credit, TaskGroup& requests);
  Task<Credit> wait_for_credit(std::uint64_t data);
  Task<std::size_t> receive_some(Buffers into);
  Task<> receive_more();
  Task<> receive_payload(MutableBytes into);
  Task<> skip_payload(std::uint64_t length);
  Task<> let_others();
  std::size_t received() const noexcept { return end_ - begin_; }
  Bytes consume(std::uint64_t at_most) noexcept;

  // check.cpp: what is refused
  Verdict check(const Request& request) const noexcept;
  Verdict check_flags(const Request& request) const noexcept;
  Verdict check_range(const Request& request) const noexcept;

  // requests.cpp: what is done
  Task<> read(Request request, Credit credit);
  Task<> write(Request request, PooledBuffer data, Credit credit);
  Task<> flush(Request request, Credit credit);
  Task<> trim(Request request, Credit credit);
  Task<> write_zeroes(Request request, Credit credit);
  Task<> cache(Request request, Credit credit);
  Task<> block_status(Request request, PooledBuffer query, Credit credit);
  Task<> discard(Range range, bool durable);
  Task<> make_durable();
  void leave() noexcept;
  Task<> read_through(Range range);
  bool durable(const Request& request) const noexcept;
  std::optional<std::vector<std::uint32_t>> chosen_contexts(Request& request, Bytes query) const;

  // reply.cpp: what is answered
  void succeed(const Request& request, Credit credit);
  void fail(const Request& request, Status status, std::string_view reason, Credit credit);
  void finish(const Request& request, const Result<>& outcome, std::string_view failure,
              Credit credit);
  void send_data(const Request& request, PooledBuffer data, Credit credit);
  void send_part(const Request& request, Range part, Bytes data, bool is_last, NbdReply reply);
  void send_status(const Request& request, std::uint32_t context,
                   std::span<const nbd::Extent> extents, bool last, Credit credit);
  void put_chunk(NbdReply& reply, const Request& request, nbd::Chunk type, bool last,
                 std::uint64_t payload) const noexcept;

  Socket& socket_;
  const NbdAgreement agreement_;
  NbdExport& disk_;
  const nbd::Headers headers_;
  BufferPool& pool_;
  CancelSource& stop_;
  CancelSource& drop_;
  Semaphore credit_;
  ReplyQueue replies_;
  bool receiving_ = true;
  Event over_;                               // all requests have ended

  PooledBuffer inbox_;                       // received and not yet looked at: [begin_, end_)
  std::size_t begin_ = 0, end_ = 0;
  // Of the edge's losses: told to this client, and when its last good flush began; and the last debt of which it was told.
  std::uint64_t told_losses_, known_losses_, heard_debt_;
  std::uint64_t changes_ = 0, flushed_ = 0;  // begun and ended; those before its last good flush
  bool takes_leave_ = false;                 // it has had all answers that it waits for
};

}  // namespace tidemark
