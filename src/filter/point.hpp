// Point: the content a disk had at one moment, kept while the disk goes on being written.
//
// Every granule of the disk is in one of these states:
//
//   todo       protected, and not copied yet: the disk itself still holds the old content
//   claimed    being copied; the disk still holds it, and a hold keeps writers away
//   kept       its old content is in the OldData; the disk may hold anything
//   outside    not part of the point (not selected, or released by a reader)
//
// Invariant: a granule's content on the disk changes only while it is kept or outside, and nobody
// holds it.  So whoever reads old content from the disk takes a hold first; a writer first copies
// what is todo of the granules it touches, then waits until nobody holds these granules.  What is
// todo can be claimed once only, so that concurrent writes to a granule copy it once.
#pragma once

#include <functional>
#include <optional>

#include "bitmap/dirty_bitmap.hpp"
#include "block/edge.hpp"
#include "filter/holds.hpp"
#include "filter/old_data.hpp"

namespace tidemark {

// One thread.  The source edge and the sink outlive it; nothing is under way when it goes.
class Point {
 public:
  // A copy that failed, and on which side.
  struct Failure {
    Error error;
    bool reading;
  };
  using Outcome = std::optional<Failure>;

  // Nothing is protected yet.
  Point(Executor& executor, Edge& source, OldData& sink, std::uint64_t granule);

  std::uint64_t size() const noexcept { return todo_.size(); }
  std::uint64_t granule() const noexcept { return todo_.granularity(); }

  // Choose what is protected, at the moment of the point: while the source is drained.
  void protect_all() noexcept;
  void protect(const DirtyBitmap& selection) noexcept;
  // What the source's top layer does not hold is dropped from the point when it is come across.
  void only_allocated(bool only) noexcept { only_allocated_ = only; }
  bool drops_unallocated() const noexcept { return only_allocated_; }

  // For a writer: returns when `range` may change.
  Task<Outcome> preserve(Range range);
  bool needs_preserving(Range range) const noexcept;

  // For a copier: copies some of what is todo in `range`, from its start on.  Data goes through
  // `buffer`, so at most that much of it; zeroes and what is not allocated, up to stride.window.
  struct Stride {
    std::uint64_t window = 0;  // how far to look ahead; grows where nothing is to be moved
    std::uint64_t window_max = 1 * GiB;
    std::uint64_t done = 0;  // bytes that the last call copied or dropped
  };
  Task<Outcome> copy_some(Range range, Stride& stride, MutableBytes buffer);
  // Drops what the source's top layer does not hold, as far as one look tells; where to go on.
  Task<std::uint64_t> drop_unallocated(std::uint64_t from);

  // Of a buffer that is worth its while and holds whole clusters of any target.
  std::uint64_t buffer_size() const noexcept;

  std::optional<std::uint64_t> next_todo(std::uint64_t from) const noexcept {
    return todo_.next_dirty(from);
  }
  const DirtyBitmap& todo() const noexcept { return todo_; }
  std::uint64_t copied_bytes() const noexcept { return copied_bytes_; }
  std::uint64_t remaining_bytes() const noexcept { return todo_.dirty_bytes() + claimed_bytes_; }
  // What is not kept: todo or claimed.
  DirtyBitmap remaining() const;
  // Nothing is claimed or being read.
  bool idle() const noexcept { return holds_.idle(); }
  WaitQueue::Wait wait_progress() { return holds_.wait(); }

  // For readers of the point.  Outside it: EACCES.
  Task<> read(std::uint64_t offset, Buffers into);
  Task<Extent> map(Range wanted);
  // The granules wholly inside `range` leave the point; their old content is forgotten.
  Task<> release(Range range);

  // A writer went on without preserving: the point is lost, and so is who reads it from now on.
  void break_with(Failure failure);
  void on_break(std::function<void()> call) { on_break_ = std::move(call); }
  const Outcome& broken() const noexcept { return broken_; }

 private:
  class Claim;
  struct Piece {
    Range range;  // within one state
    bool kept;
  };

  Range whole(Range range) const noexcept;
  Task<Outcome> preserve_much(Range range);
  Task<Outcome> copy_claim(Claim& claim, Stride& stride, MutableBytes buffer);
  Task<> copy_data(Range range, MutableBytes buffer, bool& reading);
  std::uint64_t whole_granules(Range claimed, std::uint64_t length) const noexcept;
  Result<Piece> first_piece(Range wanted) const;

  Executor& executor_;
  Edge& source_;
  OldData& sink_;
  DirtyBitmap todo_, kept_, inside_;
  Holds holds_;
  std::uint64_t claimed_bytes_ = 0, copied_bytes_ = 0;
  bool only_allocated_ = false;
  Outcome broken_;
  std::function<void()> on_break_;
};

}  // namespace tidemark
