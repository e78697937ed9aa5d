// NodeBitmap: a dirty bitmap with a name on a node, and QEMU's states of it
// (docs/interop/bitmaps.rst: recording, busy, persistent, inconsistent; successors).
//
// Every write to the node marks every bitmap that records before the write reaches the driver, so a
// bit is never missing for content that changed.  One that is under way when a bitmap begins to record, or
// is cleared, marks it when it ends.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {

// Owned by its node; who shows it to others shares it, and what it shows then may outlive the node.
class NodeBitmap : public std::enable_shared_from_this<NodeBitmap> {
 public:
  NodeBitmap(std::string name, std::uint64_t disk_size, std::uint32_t granularity)
      : name_(std::move(name)), bits_(disk_size, granularity) {}

  const std::string& name() const noexcept { return name_; }
  std::uint64_t granularity() const noexcept { return bits_.granularity(); }
  bool enabled() const noexcept { return enabled_; }
  bool busy() const noexcept { return busy_; }                  // a job or export holds it
  bool has_successor() const noexcept { return successor_ != nullptr; }
  bool recording() const noexcept { return !inconsistent() && (successor_ ? true : enabled_); }
  // The same, and what is to be recorded should a group be undone.
  bool records() const noexcept { return recording() || (recorder_ && !inconsistent()); }
  bool persistent() const noexcept { return persistent_; }
  bool read_only() const noexcept { return read_only_; }        // shown with a node that is only read
  // It stays with the disk when layers come and go; and an overlay has it, too, since.
  bool follows() const noexcept { return follows_; }
  bool carried() const noexcept { return carried_; }
  bool inconsistent() const noexcept { return !inconsistent_.empty(); }
  const std::string& inconsistent_reason() const noexcept { return inconsistent_; }
  // Dirty bytes, those recorded since a job froze it included.
  std::uint64_t dirty_bytes() const noexcept;

  DirtyBitmap& bits() noexcept { return bits_; }
  const DirtyBitmap& bits() const noexcept { return bits_; }
  const DirtyBitmap* successor() const noexcept { return successor_.get(); }
  void set_enabled(bool enabled) noexcept { enabled_ = enabled; }
  void set_busy(bool busy) noexcept { busy_ = busy; }
  void set_persistent(bool persistent) noexcept { persistent_ = persistent; }
  void set_read_only() noexcept { read_only_ = true; }
  void set_follows(bool follows) noexcept { follows_ = follows; }
  void set_carried(bool carried) noexcept { carried_ = carried; }
  // Shown read-only so far, or left over: it is as it was stored, or more is dirty.
  void come_back(NodeBitmap stored);
  void set_inconsistent(std::string reason) { inconsistent_ = std::move(reason); }

  void mark(Range range) {
    if (successor_) successor_->set(range);
    else if (enabled_) bits_.set(range);
    if (recorder_) recorder_->set(range);
    if (suspected_) trust(range);
  }

  // What is in `written` was written, whatever was suspected of it.
  void merge(const DirtyBitmap& written);

  // Of bits that a store keeps: as long as it is the same, so are they.  Kept bits are among the first, a group's recorder too.
  struct Stamp {
    std::uint64_t remade = 0, changes = 0, recorded = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  Stamp stamp() const noexcept { return {remade_, bits_.changes(), recorder_ ? recorder_->changes() : 0}; }
  Stamp successor_stamp() const noexcept { return {remade_, successor_ ? successor_->changes() : 0}; }
  Stamp suspected_stamp() const noexcept { return {remade_, suspected_ ? suspected_->changes() : 0}; }

  // A job takes the bits of this moment: they stay as they are, later writes go to a successor.
  // The bitmap is busy until abdicate() or reclaim().
  void freeze();
  // As if it had been frozen now, and not before: what was recorded since is among the bits, too.
  void refreeze();
  // The job has used them: the successor's bits become the bitmap's.
  void abdicate();
  // The job has failed: bits = frozen ∪ successor.  Nothing is lost.
  void reclaim();

  // Drops all bits and hands them over; to be kept, if it is persistent, until they are released.
  [[nodiscard]] DirtyBitmap clear();

  void truncate(std::uint64_t disk_size);

  // Actions and jobs that take effect together hold what they have changed until they have ended.  What is written meanwhile is
  // recorded beside it, too, if it `was_recording` before: so it can be as it was, and no mark is lost.  Once the group is complete
  // it is nobody else's.
  void hold_for_group(std::uint64_t group, bool was_recording);
  void complete_group() noexcept { in_group_ = true; }
  void end_group() noexcept;
  bool in_group() const noexcept { return in_group_; }
  const DirtyBitmap* recorder() const noexcept { return recorder_.get(); }
  // A job that holds it: the frozen bits are dropped if the group ends well.
  void drop_with_group(std::uint64_t group) noexcept { drops_with_ = group; }
  bool held_by(std::uint64_t group) const noexcept { return group != 0 && group_ == group; }
  bool drops_with(std::uint64_t group) const noexcept { return group != 0 && drops_with_ == group; }
  bool concerns(std::uint64_t group) const noexcept { return held_by(group) || drops_with(group); }
  bool of_a_group() const noexcept { return group_ != 0 || drops_with_ != 0; }     // that has not ended
  // The group ends well, and the store has this bitmap as it is then: nothing is kept for an undo.
  void group_decided(std::uint64_t group);

  // It says from here on what the other one, of another node, says at this moment, whoever holds that; this one nobody
  // holds.  The bits that are dropped so are kept.
  void become(const NodeBitmap& other);

  // Of a persistent bitmap: bits that memory has dropped and its store still keeps.  The store forgets
  // them, after a flush of the disk, once they are released; what drops bits for good says so.
  struct Kept {
    DirtyBitmap bits;
    std::uint64_t version = 0;                   // another one whenever bits were added
    bool released = false;
  };
  void keep(const DirtyBitmap& bits);
  // It begins to record: what was written before is its point, and lasts only with the next flush of the disk.
  void keep_all();
  void release_kept() noexcept;
  const Kept* kept() const noexcept { return kept_.get(); }
  void forget_kept(std::uint64_t version) noexcept;
  // Of a retired one: it is not coming back.
  void leave() noexcept { leaving_ = true; }
  bool leaving() const noexcept { return leaving_; }

  // Dirty granules that nobody is known to have written: a crash left it open.  A mark ends suspicion.
  const DirtyBitmap* suspected() const noexcept { return suspected_.get(); }
  std::uint64_t suspected_bytes() const noexcept { return suspected_ ? suspected_->dirty_bytes() : 0; }
  void suspect(const DirtyBitmap& granules);
  // The granules are as they were at the bitmap's point: what of them is still suspected becomes clean.
  void acquit(Range range);

 private:
  void trust(Range range) noexcept;

  std::string name_;
  DirtyBitmap bits_;
  std::unique_ptr<DirtyBitmap> successor_;       // records while a job holds bits_
  std::unique_ptr<DirtyBitmap> recorder_;
  unsigned group_holds_ = 0;
  std::uint64_t group_ = 0, drops_with_ = 0;
  std::unique_ptr<Kept> kept_;
  std::uint64_t kept_version_ = 0;
  std::unique_ptr<DirtyBitmap> suspected_;
  std::string inconsistent_;                     // why
  std::uint64_t remade_ = 0;                     // one more whenever bits beside these come or go, or the kept ones change
  bool enabled_ = true, busy_ = false, persistent_ = false, read_only_ = false, leaving_ = false,
       follows_ = false, carried_ = false, in_group_ = false, dropped_ = false;
};

// What a command needs of a bitmap; QEMU's bdrv_dirty_bitmap_check() conditions and messages.
enum class BitmapUse : std::uint8_t {
  read,          // not busy nor of a group that has not ended, not inconsistent
  modify,        // nor read-only, nor a checkpoint's
  allow_inconsistent,   // removal: not busy, not read-only, not a checkpoint's
};
Result<> check_bitmap(const NodeBitmap& bitmap, BitmapUse use);

class NodeBitmaps {
 public:
  NodeBitmap* find(std::string_view name) noexcept;
  // Errors as QEMU's block-dirty-bitmap-add: name empty or over 1023 bytes, exists, granularity.
  Result<NodeBitmap*> add(std::string name, std::uint64_t disk_size, std::uint32_t granularity);
  // Errc::busy for the name of one that a group has removed and may bring back.
  Result<> check_unclaimed(std::string_view name) const;
  void insert(std::shared_ptr<NodeBitmap> bitmap) {
    all_.push_back(std::move(bitmap));
    begun();
  }
  // One that was stored.  Where there is one of its name, that is it.
  void bring_back(std::shared_ptr<NodeBitmap> bitmap);
  std::shared_ptr<NodeBitmap> remove(NodeBitmap& bitmap) noexcept;
  // A bitmap goes out of sight and on recording, until it is revived, or buried: a persistent one when the store does not
  // have it any more.
  void retire(NodeBitmap& bitmap) noexcept;
  void revive(NodeBitmap& bitmap) noexcept;
  void bury(NodeBitmap& bitmap) noexcept;
  void group_decided(std::uint64_t group);
  // A bitmap begins anew: it was cleared or enabled, or made here.
  void begun() noexcept { ++beginnings_; }
  std::uint64_t beginnings() const noexcept { return beginnings_; }
  void mark(Range range) {
    for (auto& bitmap : all_) bitmap->mark(range);
    for (auto& bitmap : retired_) bitmap->mark(range);
  }
  void truncate(std::uint64_t disk_size);
  bool empty() const noexcept { return all_.empty(); }
  const std::vector<std::shared_ptr<NodeBitmap>>& all() const noexcept { return all_; }
  const std::vector<std::shared_ptr<NodeBitmap>>& retired() const noexcept { return retired_; }

 private:
  std::vector<std::shared_ptr<NodeBitmap>> all_;
  std::vector<std::shared_ptr<NodeBitmap>> retired_;
  std::uint64_t beginnings_ = 0;
};

}  // namespace tidemark
