// Pieces: works through a disk from its start to its end for a job, piece by piece, many at once, at the
// pace that the job's context allows and in turns with guests.  What a piece is and what becomes of it is
// the source's to say.
//
// Invariant: what was not done is in left(): not begun, or failed and given back by again().
#pragma once

#include <deque>
#include <optional>

#include "job/guest_pace.hpp"
#include "job/job.hpp"

namespace tidemark {

class PieceSource {
 public:
  enum class Kind : std::uint8_t { nothing, data, zeroes };
  struct Found {
    std::uint64_t length;                // from the start of what was asked for: 0 < length
    Kind kind;
  };
  struct Failure {
    Error error;
    bool reading;
  };
  using Outcome = std::optional<Failure>;

  // Both while something is in flight for drain in the disk: with drivers' edges, not root edges.
  // What is to be done at the start of `wanted`.
  virtual Task<Found> look(Range wanted) = 0;
  // Data goes through `buffer`, which holds it.
  virtual Task<Outcome> copy(Range piece, Kind kind, MutableBytes buffer) = 0;
  // So much data was copied; nothing is in flight any more.
  virtual Task<> copied(std::uint64_t) { co_return; }

 protected:
  ~PieceSource() = default;
};

// One thread.  The source and the edge outlive it.
class Pieces {
 public:
  struct Failed {
    PieceSource::Failure why;
    Range piece;
  };

  // Pieces end where `granule` does, a power of two.  `through` is a root edge on what guests use.
  Pieces(PieceSource& source, Edge& through, std::uint64_t size, std::uint64_t granule);

  // Until all is done, the context is interrupted or a piece fails; nothing is in flight when it returns.
  Task<std::optional<Failed>> run(JobContext& context);
  // Until all is done.  What fails is dealt with by the policy, where `ignore` tries again.
  Task<> finish(JobContext& context, OnError policy);
  // What has failed is to be tried again, in the end.
  void again(Range piece);

  bool done() const noexcept { return left_.empty(); }
  JobProgress progress() const noexcept { return {size_ - std::min(size_, left_bytes_), size_}; }

 private:
  struct Piece {
    Range range;
    PieceSource::Kind kind;
  };
  Task<> work(JobContext& context);
  Task<> one(JobContext& context, MutableBytes buffer);
  Task<std::optional<Piece>> next(JobContext& context, std::uint64_t most);
  std::uint64_t chunk_for(std::uint64_t speed) const noexcept;
  std::uint64_t length_of(const PieceSource::Found& found, Range from, std::uint64_t most) const noexcept;
  bool goes_on(const JobContext& context) const noexcept {
    return !failed_ && !left_.empty() && !context.interrupted();
  }

  Reactor& reactor_;
  PieceSource& source_;
  GuestPace pace_;
  const std::uint64_t size_, granule_, chunk_;
  std::deque<Range> left_;               // in the order in which it is begun
  std::uint64_t left_bytes_;             // not done: in left_ or in flight
  std::optional<Failed> failed_;
  Mutex finding_;
};

}  // namespace tidemark
