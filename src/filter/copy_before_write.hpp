// copy-before-write: a filter that keeps a point in time of its `file` child on its `target` child.
//
// Before a write through the filter changes a granule of the point, the old content is copied to
// the target.  A backup job inserts one above its source; by hand, over QMP, it makes a point that
// snapshot-access nodes read (fleecing).  The rules are filter/point.hpp's.
//
// A backup's filter may stage: old content is then safe in memory or a scratch file when the write goes
// on, and reaches the target later.
#pragma once

#include <memory>

#include "block/driver.hpp"
#include "block/node.hpp"
#include "filter/granule.hpp"
#include "filter/point.hpp"
#include "filter/target_sink.hpp"

namespace tidemark {

// When old content cannot be copied (qapi: OnCbwError): the guest's write fails, or it goes on and
// the point is lost.
enum class OnCbwError : std::uint8_t { break_guest_write, break_snapshot };

struct CopyBeforeWriteOptions {
  BlockNode* file = nullptr;
  BlockNode* target = nullptr;
  const NodeBitmap* bitmap = nullptr;  // what the point covers; null: everything
  OnCbwError on_cbw_error = OnCbwError::break_guest_write;
  std::uint32_t cbw_timeout_s = 0;  // of one copy before a write; 0: none
  std::uint64_t min_cluster_size = 0;

  // For a backup job.
  bool protect_later = false;  // the job chooses what, and when
  std::optional<StageOptions> staging;  // writers do not wait for the target
  bool compress = false;
  bool unmap = true, target_is_zero = false, backing_later = false;      // as TargetSinkOptions
  std::shared_ptr<CopyWitness> witness;
  bool drop_discards = false;       // of what is not copied yet: they are advisory, and
                                    // one fstrim would have the whole disk copied
  bool share_target_writes = true;  // others may write to the target, too
};

class CopyBeforeWrite final : public BlockDriver {
 public:
  // A stage is open.
  CopyBeforeWrite(Reactor& reactor, const CopyBeforeWriteOptions& options, const Granule& granule,
                  std::unique_ptr<Edge> file, std::unique_ptr<Edge> target,
                  std::unique_ptr<Stage> stage);

  Point& point() noexcept { return *point_; }
  Stage* stage() noexcept { return stage_.get(); }
  // Null once this is closed.
  std::weak_ptr<Point> shared_point() const noexcept { return point_; }
  // For the user, about the target; empty for none.
  const std::string& warning() const noexcept { return warning_; }
  Edge& file() noexcept { return *file_; }
  Edge& target() noexcept { return *target_; }

  std::string_view name() const noexcept override { return "copy-before-write"; }
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
  // What is cut off is kept; what is added is not part of the point.
  Task<> truncate(std::uint64_t size, Growth growth) override;
  Task<> flush() override { return file_->flush(); }
  Task<ImageInfo> info() override;
  Task<> close() override;

 private:
  struct Attempt;
  Task<> before_write(Range range);
  Task<Point::Outcome> preserve_in_time(Range range);
  Task<> preserve_detached(std::shared_ptr<Attempt> attempt, Range range);

  std::unique_ptr<Edge> file_, target_;
  const std::shared_ptr<CopyWitness> witness_;
  TargetSink sink_;
  std::unique_ptr<Stage> stage_;
  std::shared_ptr<Point> point_;
  std::string warning_;
  Gate detached_;  // copies that outlived their writer's patience
  std::chrono::seconds timeout_;
  OnCbwError on_cbw_error_;
  bool drop_discards_, share_target_writes_;
};

// Errors are QEMU's.  The node for it is to be writable when `file` is.
Task<std::unique_ptr<CopyBeforeWrite>> open_copy_before_write(CopyBeforeWriteOptions options);

}  // namespace tidemark
