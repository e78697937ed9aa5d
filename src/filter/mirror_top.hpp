// mirror_top: the filter that a mirror job puts above its source.  It knows where the target may differ from
// the source, and, write-blocking, writes to both.
//
// Invariant: what the target may have otherwise than the source is dirty, or is what somebody holds in
// locks() (a copy, or a write to both), or a write under way that has not ended yet.
//
//   background       A write marks when it ends, whatever became of it.  A copy cleans its granules before it
//                    reads them: it reads what ended before, and what ends later is dirty again.
//   write-blocking   A write holds its range alone, cleans the granules that it covers, then writes the source
//                    and the target, and marks what either refused.  It excludes copies and other such writes;
//                    those that are still under way from before it mark when they end, as ever.
//   excluded         A write holds its range alone, too, and marks: what is clean then, and nobody holds, is in the target as
//                    it was when that began.
//
// So the two may change over at any moment.  A guest waits for the target only when write-blocking, and its
// writes do not fail when the target does: the job is told.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "bitmap/dirty_bitmap.hpp"
#include "block/node.hpp"
#include "task/range_lock.hpp"

namespace tidemark {

struct MirrorTopOptions {
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  std::uint64_t granularity = 64 * KiB;
  bool write_blocking = false;
  bool unmap = true;             // zeroes may be holes in the target
  bool whole_granules = false;   // the target takes nothing less: what is below it is not there yet
  bool backing_later = false;    // the target may be put on something else: zeroes are written where it would show
  bool commits = false;          // the target is below the source, and used from use_target() on
};

// On the thread of its nodes.
class MirrorTop final : public BlockDriver {
 public:
  MirrorTop(Reactor& reactor, const MirrorTopOptions& options, std::unique_ptr<Edge> file,
            std::unique_ptr<Edge> target);

  Edge& file() noexcept { return *file_; }
  Edge& target() noexcept { return *target_; }
  bool unmaps() const noexcept { return unmap_; }
  bool backing_later() const noexcept { return backing_later_; }

  // For the copier: it holds a range in locks() alone, then cleans it, then reads it.
  DirtyBitmap& dirty() noexcept { return dirty_; }
  const DirtyBitmap& dirty() const noexcept { return dirty_; }
  RangeLock& locks() noexcept { return locks_; }
  // Granules that have been written in the target.
  const DirtyBitmap& touched() const noexcept { return touched_; }
  void touch(Range range) noexcept;
  // What was written in the target is durable.  False: some of it is not, for a flush has failed since the last one that did
  // not, whoever asked for it; all since then is dirty again.
  Task<bool> flush_target();

  // Something that ends with a mark, or without.
  class Unsettled {
   public:
    explicit Unsettled(MirrorTop& top) noexcept : top_(top) { ++top.unsettled_; }
    Unsettled(const Unsettled&) = delete;
    ~Unsettled() { --top_.unsettled_; }

   private:
    MirrorTop& top_;
  };

  bool write_blocking() const noexcept { return write_blocking_; }
  void set_write_blocking(bool on) noexcept { write_blocking_ = on && !retired_; }
  // The two are the same, and the next write will be written to both.
  bool actively_synced() const noexcept { return writes_both() && dirty_.empty() && unsettled_ == 0; }
  std::uint64_t bytes_to_both() const noexcept { return bytes_to_both_; }

  // From now on, and until it is told otherwise, whatever writes to the source holds its range in locks(), and marks it: the
  // target is left alone.  Nothing is under way when that begins.
  void exclude_writes(bool on = true) noexcept { excludes_writes_ = on; }

  // Called when something becomes dirty where nothing was, and when the target has refused a guest's write.
  void listen(std::function<void()> listener) { listener_ = std::move(listener); }
  std::optional<Error> take_failure() noexcept { return std::exchange(failure_, std::nullopt); }

  // A commit's, once all that stands on its target does so through this.
  Result<> use_target(Permissions::Set more = Permissions::none);
  // From now on it only passes on, and asks nothing of its children itself; the target is left alone, but a commit's is
  // kept from others' writes, which would show in the source, until let_go_of_target().
  void retire() noexcept;
  void let_go_of_target() noexcept { set_target_permissions({}); }

  std::string_view name() const noexcept override { return "mirror_top"; }
  std::uint64_t size() const noexcept override { return file_->size(); }
  bool is_filter() const noexcept override { return true; }
  bool supports_fua() const noexcept override { return true; }
  std::vector<Edge*> edges() const override;
  Permissions child_permissions(const Edge& child, Permissions node, bool writable) const override;

  Task<Extent> map(Range wanted) override { return file_->map(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override { return file_->read(offset, into); }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override;
  // The source only: the job sees to the target when it matters.
  Task<> flush() override { return file_->flush(); }
  Task<ImageInfo> info() override;
  Task<> close() override;

 private:
  class Marked;
  void set_target_permissions(Permissions permissions) noexcept;
  void mark(Range range) noexcept;
  void tell() const {
    if (listener_) listener_();
  }
  bool writes_both() const noexcept { return write_blocking_ && !excludes_writes_; }
  Range for_target(Range range) const noexcept;
  Task<> discard_alone(Range range);
  Task<> to_both(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> zeroes_to_both(Range range, WriteFlags flags);
  void end_both(Range range, Range copied, const Result<>& at_source, const Result<>& at_target);

  std::unique_ptr<Edge> file_, target_;
  DirtyBitmap dirty_, touched_;
  DirtyBitmap unflushed_;        // of touched_: since the last flush that succeeded began
  std::uint64_t losses_ = 0;     // of the target, that are made good
  RangeLock locks_;
  std::function<void()> listener_;
  std::optional<Error> failure_;
  Permissions of_target_;
  std::uint64_t unsettled_ = 0, bytes_to_both_ = 0;
  bool write_blocking_, excludes_writes_ = false, retired_ = false;
  const bool unmap_, whole_granules_, backing_later_, commits_;
};

// The node for it is to be writable when the source is.
Result<std::unique_ptr<MirrorTop>> open_mirror_top(const MirrorTopOptions& options);

}  // namespace tidemark
