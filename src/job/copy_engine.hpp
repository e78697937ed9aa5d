// CopyEngine: copies what is left of a point in the background, many pieces at once, at the pace
// that the job's context allows.  What a piece is and where it goes is filter/point.hpp's.
//
// It goes through the disk from its start to its end; what guests have overwritten meanwhile, and is
// staged, comes first while it presses.  How it shares the disk with guests is job/guest_pace.hpp's.
#pragma once

#include "filter/point.hpp"
#include "io/reactor.hpp"
#include "block/write_behind.hpp"
#include "job/guest_pace.hpp"
#include "job/job.hpp"
#include "task/group.hpp"

namespace tidemark {

struct CopyLimits {
  std::uint64_t workers = 64;  // pieces in flight, at most
  std::uint64_t chunk = 0;     // bytes of data in one piece, at most; 0: the engine's choice
};

class CopyEngine {
 public:
  // A piece is in flight for drain at `through`, a root edge above the point's disks, while the disk
  // is read; for a point without a stage until it has been copied.
  CopyEngine(Reactor& reactor, Point& point, Edge& through, Edge& target, CopyLimits limits);

  // Copies until nothing is todo, the context is interrupted, the point breaks or a piece fails;
  // nothing is in flight when this returns.  The next call goes on behind what failed.
  Task<Point::Outcome> run(JobContext& context);
  // Copies what is staged whenever a guest waits for room, be the job paused or the disk drained, for
  // which such a guest would keep waiting.  Until the token is asked.
  Task<> relieve(CancelToken token);

 private:
  Task<std::unique_ptr<Point::Reading>> enter();
  Task<> work(JobContext& context);
  Task<> copy_piece(JobContext& context, Point::Stride& stride, MutableBytes buffer);
  std::uint64_t chunk_for(std::uint64_t speed) const noexcept;
  std::optional<std::uint64_t> next_staged() noexcept;

  Reactor& reactor_;
  Point& point_;
  Edge& through_;
  CopyLimits limits_;
  std::uint64_t position_ = 0, staged_position_ = 0;
  Point::Outcome failure_;
  GuestPace pace_;
  WriteBehind behind_;
};

}  // namespace tidemark
