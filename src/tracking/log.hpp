// Log: writes ranges to the log, many requests to one write, and says when they are durable.
//
// Two halves, written in turn: an epoch fills one of them from its start; rotate() goes on in the other.
// The owner rotates only when no root needs what the other half holds.  One write is under way at a time:
// what comes meanwhile goes with the next, which costs the guest less than a second one beside it.
//
// Invariant: before append() returns, and before the owner hears logged(), every range of its block is
// on stable storage in an epoch that recovery reads.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "io/aligned.hpp"
#include "io/file.hpp"
#include "io/home.hpp"
#include "task/sync.hpp"
#include "tracking/background.hpp"
#include "tracking/log_block.hpp"
#include "tracking/superblock.hpp"

namespace tidemark::tracking {

class LogOwner {
 public:
  // Inside the log's task, at once when a write has ended well.
  virtual void logged(std::span<const Range> ranges, std::uint64_t epoch) noexcept = 0;
  // The half is full, or will soon be: rotate, or refuse.
  virtual void log_fills() noexcept = 0;

 protected:
  ~LogOwner() = default;
};

class Log {
 public:
  Log(Home& home, File& file, LogOwner& owner);
  void start(const Superblock& root, bool durable);      // an empty half of the root's epoch
  void use(const Superblock& root) noexcept;             // another file; nothing is under way
  Task<> stop();                                         // nobody waits any more

  // Is all of it in a write that waits or is under way?
  bool has(Range range) const noexcept { return find(range) != nullptr; }
  // Ends when the range is durable, or with an error when it cannot be.
  Task<> append(Range range);
  // The same, without waiting to hear of it.
  void append_unawaited(Range range);

  std::uint64_t epoch() const noexcept { return epoch_; }
  void rotate(std::uint64_t epoch) noexcept;
  Task<> wait_older();                                   // until no write of an older epoch is under way
  bool idle() const noexcept { return batches_.empty(); }
  Task<> wait_idle();                                    // until nothing waits or is under way
  // Everything that waits and is appended fails with this, until rotate().
  void refuse(Error error) noexcept;
  bool full() const noexcept { return next_ == blocks_; }

 private:
  struct Batch {
    explicit Batch(Executor& executor) : done(executor) {}
    std::vector<Range> ranges;
    bool taken = false;                                  // by a writer
    std::optional<Error> failure;
    Event done;
  };
  using BatchPtr = std::shared_ptr<Batch>;
  static constexpr unsigned writers = 1;

  BatchPtr find(Range range) const noexcept;
  BatchPtr join(Range range);
  Task<> write_batches();
  Task<> write(BatchPtr batch);
  void end(Batch& batch, std::optional<Error> failure) noexcept;
  std::uint64_t durable_before() const noexcept;

  Home& home_;
  File& file_;
  LogOwner& owner_;
  Superblock shape_;                                     // of the file: where the halves are
  bool durable_ = true;
  bool stopping_ = false;
  std::uint64_t epoch_ = 0;
  std::uint64_t blocks_ = 0, next_ = 0;                  // of the half; the next to be written
  std::vector<std::uint64_t> under_way_;                 // blocks of this epoch being written
  std::uint64_t failed_ = ~std::uint64_t{0};             // the first of this epoch whose write failed
  std::uint64_t older_ = 0;                              // writes of older epochs under way
  std::vector<BatchPtr> batches_;                        // in order of arrival, the ones being written too
  BatchPtr collecting_;
  std::optional<Error> refused_;
  Event changed_;                                        // work, room, refusal, stop
  WaitQueue older_gone_;
  WaitQueue idle_;
  std::array<std::unique_ptr<Background>, writers> tasks_;
};

}  // namespace tidemark::tracking
