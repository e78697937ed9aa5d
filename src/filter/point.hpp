// Point: the content a disk had at one moment, kept while the disk goes on being written.
//
// Every granule of the disk is in one of these states:
//
//   todo       protected, and not copied yet.  The disk holds the old content, but for what is in
//              the stage (units of 4 KiB), or all of it is known to be zeroes
//   claimed    being copied; first from the disk, while a hold keeps writers away.  A point with a
//              stage then lets go of the hold, for all of it is in memory.  What cannot be copied then goes
//              back, and what has been overwritten of it meanwhile goes to the stage
//   kept       its old content is in the OldData; the disk may hold anything
//   outside    not part of the point (not selected, or released by a reader)
//
// Invariant: content on the disk changes only while it is staged, claimed without a hold, kept or
// outside, and nobody holds it.  So whoever reads old content from the disk takes a hold first.  A
// writer first sees to it that what it is about to overwrite is safe, then waits until nobody holds
// it.  Without a stage that means to copy the granules it touches, as QEMU does it: a write that has
// been let through finds its old content in the OldData.  With one it means to stage the units it
// touches, and the writer never waits for the OldData.  What is todo can be claimed once only, so that
// concurrent writes to a granule copy it once.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "bitmap/dirty_bitmap.hpp"
#include "block/edge.hpp"
#include "block/status.hpp"
#include "filter/holds.hpp"
#include "filter/old_data.hpp"
#include "filter/stage.hpp"

namespace tidemark {

// One thread.  The source edge, the sink and the stage outlive it; nothing is under way when it goes.
class Point {
 public:
  // A copy that failed, and on which side.
  struct Failure {
    Error error;
    bool reading;
  };
  using Outcome = std::optional<Failure>;

  // Nothing is protected yet.  `stage` may be null; with one, a granule is at most buffer_size().
  Point(Executor& executor, Edge& source, OldData& sink, std::uint64_t granule, Stage* stage);

  std::uint64_t size() const noexcept { return todo_.size(); }
  std::uint64_t granule() const noexcept { return todo_.granularity(); }
  Stage* stage() const noexcept { return stage_; }

  // Choose what is protected, at the moment of the point: while the source is drained.
  void protect_all() noexcept;
  void protect(const DirtyBitmap& selection) noexcept;
  // What no layer above this one holds is dropped from the point when it is come across.  The chain may change: an edge
  // goes with its layer.  It outlives the point; with null nothing is dropped.
  void only_above(const Edge* below) noexcept { below_ = below; }
  // What `dirty` does not have is dropped so where none of the layers above `below`, a layer of the source, holds it.
  void only_changed(BlockNode& below, const DirtyBitmap& dirty);
  bool drops_unallocated() const noexcept { return below_ || changed_; }

  // For a writer: returns when `range` may change.
  Task<Outcome> preserve(Range range);
  bool needs_preserving(Range range) const noexcept;

  // What a copier has for as long as the disk is read: something under way in it, and its turn.
  class Reading {
   public:
    explicit Reading(InFlight in_flight) : in_flight_(std::move(in_flight)) {}
    virtual ~Reading() = default;
    // Nothing is under way any more; the turn lasts.
    void end() noexcept { const InFlight ended(std::move(in_flight_)); }

   private:
    InFlight in_flight_;
  };
  // For a copier: copies some of what is todo in `range`, from its start on.  Data goes through
  // `buffer`, so at most that much of it; zeroes and what is not allocated, up to stride.window.
  // `reading` ends as soon as the disk is no longer needed; a writer that preserves needs none.
  struct Stride {
    std::uint64_t window = 0;  // how far to look ahead; grows where nothing is to be moved
    std::uint64_t window_max = 1 * GiB;
    std::uint64_t done = 0;  // bytes that the last call copied or dropped
  };
  Task<Outcome> copy_some(Range range, Stride& stride, MutableBytes buffer,
                          std::unique_ptr<Reading> reading);
  // Drops what the source's top layer does not hold, as far as one look tells; where to go on.
  Task<std::uint64_t> drop_unallocated(std::uint64_t from);

  // Of a buffer that is worth its while and holds whole clusters of any target.
  static std::uint64_t buffer_size(std::uint64_t granule) noexcept;
  std::uint64_t buffer_size() const noexcept { return buffer_size(granule()); }

  std::optional<std::uint64_t> next_todo(std::uint64_t from) const noexcept {
    return todo_.next_dirty(from);
  }
  std::optional<std::uint64_t> next_staged(std::uint64_t from) const noexcept {
    return staged_.next_dirty(from);
  }
  const DirtyBitmap& todo() const noexcept { return todo_; }
  std::uint64_t copied_bytes() const noexcept { return copied_bytes_; }
  std::uint64_t remaining_bytes() const noexcept {
    return todo_.dirty_bytes() + claimed_.dirty_bytes();
  }
  // What is not kept: todo or claimed.
  DirtyBitmap remaining() const;
  // Nothing is being copied or read.
  bool idle() const noexcept { return holds_.idle() && claimed_.empty(); }
  // Until some of what is being copied or read no longer is, or the point breaks; then look again.
  WaitQueue::Wait wait_progress() { return holds_.wait(); }

  // For readers of a point without a stage.  Outside of the point: EACCES.
  Task<> read(std::uint64_t offset, Buffers into);
  Task<Extent> map(Range wanted);
  // The granules wholly inside `range` leave the point; their old content is forgotten.
  Task<> release(Range range);

  // The point is lost, and so is who reads it from now on; writers need not preserve anything.
  void break_with(Failure failure);
  void on_break(std::function<void()> call) { on_break_ = std::move(call); }
  const Outcome& broken() const noexcept { return broken_; }

 private:
  class Claim;
  // What is known of granules that are todo.
  enum class Kind : std::uint8_t { plain, staged, zero };
  struct Candidate {
    Range range;
    Kind kind;  // of all of it
  };
  struct Piece {
    Range range;  // within one state
    bool kept;
  };

  Range whole(Range range) const noexcept;
  Range units(Range range) const noexcept;
  Task<BlockStatus> look_at(Range range);
  std::uint64_t whole_granules(Range range, std::uint64_t length) const noexcept;

  Task<Outcome> preserve_by_copying(Range range);
  Task<Outcome> copy_all_of(Range range);

  // point_stage.cpp
  Task<Outcome> preserve_by_staging(Range range);
  std::optional<Range> next_unsafe(Range range) const noexcept;
  Task<Outcome> stage_some(Range range);
  void note_overwritten(Range range) noexcept;
  Task<bool> set_aside(Range range);
  Task<> stage_data(Range range, Stage::Room& room);

  // point_copy.cpp
  std::optional<Candidate> next_candidate(Range range, std::uint64_t length_max) const noexcept;
  std::optional<Candidate> next_piece(Range range, const Stride& stride,
                                      std::uint64_t data_max) const noexcept;
  Task<Outcome> copy_plain(Claim& claim, Stride& stride, MutableBytes buffer);
  Task<Outcome> copy_staged(Claim& claim, MutableBytes buffer);
  Task<Outcome> copy_zeroes(Claim& claim);
  Task<Outcome> copy_data(Claim& claim, MutableBytes buffer);
  Task<Outcome> deliver(std::uint64_t offset, Bytes data);
  Task<> read_missing(Range range, MutableBytes into);

  // point_read.cpp
  Result<Piece> first_piece(Range wanted) const;

  Executor& executor_;
  Edge& source_;
  OldData& sink_;
  Stage* const stage_;
  DirtyBitmap todo_, claimed_, kept_, inside_;
  // Of what is todo: something of it may be staged; all of it is zeroes, whatever the disk holds.
  DirtyBitmap staged_, zero_;
  DirtyBitmap overwritten_;               // of what is claimed without a hold, in the stage's units
  Holds holds_;
  std::uint64_t copied_bytes_ = 0;
  const Edge* below_ = nullptr;           // only_above()
  BlockNode* changed_below_ = nullptr;    // only_changed()
  std::optional<DirtyBitmap> changed_;
  Outcome broken_;
  std::function<void()> on_break_;
};

}  // namespace tidemark
