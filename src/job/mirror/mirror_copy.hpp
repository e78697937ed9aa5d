// MirrorCopy: brings the target of a mirror to what the source holds, many pieces at once, wherever
// filter/mirror_top.hpp says that they may differ.
//
// A piece is some granules that are held alone and cleaned, then read, then written; what was not written in
// the end is dirty again.  While the source is read it is in flight in it for drain, and in the target to its
// end: nobody who drains the source waits for the target.
//
// To guests at work it leaves most of the disk's time: the first time through it copies one piece after the other, with rests;
// after that, when what it copies is what they write, as many side by side as it takes to gain on them, and no more.
#pragma once

#include <list>

#include "block/write_behind.hpp"
#include "filter/mirror_top.hpp"
#include "filter/target_sink.hpp"
#include "job/guest_pace.hpp"
#include "job/job.hpp"
#include "task/group.hpp"

namespace tidemark {

// What is copied at first: all, what the source's top layer holds, or what is above the target, which is below it.
enum class Copied : std::uint8_t { all, top_layer, above_target };

struct MirrorCopyOptions {
  std::uint64_t buffers = 0;       // bytes in flight, at most; 0: its own choice
  Copied copied = Copied::all;
  BlockNode* base = nullptr;       // of top_layer: what that stands on at first, which is held by who gives it
  bool target_is_zero = false;     // what was not written in it
};

// On the thread of its nodes, which outlive it.
class MirrorCopy {
 public:
  using Outcome = Point::Outcome;

  // `through` is a root edge on the filter.
  MirrorCopy(Reactor& reactor, MirrorTop& top, Edge& through, MirrorCopyOptions options);

  // Until nothing is dirty, the context is interrupted, `enough` says so or a piece fails; nothing is in flight when
  // this returns.  The next call goes on behind what failed.
  Task<Outcome> run(JobContext& context, std::function<bool()> enough);
  // The same under the caller's drain of the source, until the token is asked.
  Task<Outcome> run_drained(CancelToken token);
  // The same without a context: for the end of a job.
  Task<Outcome> run_to_end(std::function<bool()> enough);

  // It has been through the disk once.
  bool passed() const noexcept { return !first_pass_; }
  // Bytes copied and written to both, and those that are to be.
  JobProgress progress() const noexcept;

 private:
  class Piece;
  class Reservation;
  struct Stretch {                 // of granules that are alike
    Range range;
    bool to_move = true;           // data; else there is nothing to read
    bool to_write = true;          // in the target
    bool counts = true;            // as progress
  };
  // How a run goes on, and how long.
  struct Manner {
    JobContext* context = nullptr;   // its speed limit
    bool drained = false;            // the source is, by who runs this
    std::function<bool()> going;
  };
  Task<Outcome> run_workers(const Manner& manner);
  Task<> work(TaskGroup& group, const Manner& manner);
  void call_another(TaskGroup& group, const Manner& manner);
  // These answer how many bytes of data they have moved.
  Task<std::uint64_t> copy_area(bool drained, Range area, std::uint64_t& window, MutableBytes buffer);
  Task<std::uint64_t> copy_held(Range area, std::uint64_t& window, MutableBytes buffer,
                                std::unique_ptr<Point::Reading> reading);
  Task<std::uint64_t> move(Piece& piece, const Stretch& stretch, MutableBytes buffer,
                           std::unique_ptr<Point::Reading> reading);
  Task<Stretch> look_at(Range range, std::uint64_t data_max);
  std::uint64_t side_by_side(const Manner& manner) noexcept;
  std::optional<Range> next_area(std::uint64_t length_max) noexcept;
  std::optional<Range> next_area(std::uint64_t from, std::uint64_t length_max) const noexcept;
  Range alike(Range area) const noexcept;
  void fail(const Error& error, bool reading) {
    if (!failure_) failure_ = Point::Failure{error, reading};
  }
  std::uint64_t granule() const noexcept { return top_.dirty().granularity(); }
  std::uint64_t size() const noexcept { return top_.dirty().size(); }
  std::uint64_t chunk_for(std::uint64_t speed) const noexcept;

  Reactor& reactor_;
  MirrorTop& top_;
  Edge& through_;
  const MirrorCopyOptions options_;
  std::uint64_t chunk_, workers_;
  TargetSink sink_;
  GuestPace pace_;
  WriteBehind behind_;
  const bool shares_device_;       // the target may be on the source's device
  std::uint64_t width_ = 1, left_before_ = 0;      // pieces side by side while guests write, and what was dirty then
  Instant judged_{};
  std::uint64_t working_ = 0;      // workers
  std::list<Range> reserved_;      // by pieces
  WaitQueue piece_ended_;
  Outcome failure_;
  std::uint64_t position_ = 0;
  bool first_pass_ = true;
  std::uint64_t copied_ = 0, claimed_ = 0;
};

}  // namespace tidemark
