// SimFile: a file's or device's content on a simulated disk: what readers see, and what a crash may
// leave of it.
//
// Invariant: `visible` is `durable` with every change of `changes_` applied in order.  A change is
// `unsynced` until a sync makes it `durable`; it leaves the list, into `durable`, when no change
// before it is unsynced.  A change that a failed sync gave up is `forgotten`: later syncs pass it by.
//
// What a crash leaves (the model that tests of crash consistency rely on):
//  * A sector (SimOptions::sector, aligned) is atomic.  It holds what it held after some one change,
//    not older than the last durable change that touched it.  Sectors are independent: changes are
//    lost, torn and reordered in any way that this allows.
//  * The size is one that the file had, not older than the last that a sync made durable, or a durable
//    write behind a place where the file was cut meanwhile (it cannot be found otherwise).  It does
//    not depend on the data: a sector may be lost under a new size (it reads as zeroes), or be
//    written beyond an old one (and is gone).  A shrinking that is not durable may be undone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/random.hpp"
#include "io/sim/content.hpp"

namespace tidemark {

// Bytes that the regular files of a disk occupy together.
struct SimSpace {
  std::uint64_t used = 0;
};

struct SimChange {
  enum class Kind : std::uint8_t { write, zero, punch, reserve, resize } kind = Kind::write;
  Range range;                            // resize: the new size is range.offset, its length 0
  std::shared_ptr<const std::vector<std::byte>> data{};   // write
  void apply(SparseContent& content) const;
};

class SimFile {
 public:
  explicit SimFile(SimSpace* space) : space_(space) {}    // a device has none
  SimFile(const SimFile& other, SimSpace* space);         // the same on another disk
  SimFile(const SimFile&) = delete;
  ~SimFile() { account(0); }

  const SparseContent& visible() const noexcept { return visible_; }
  SparseContent durable() const;          // what would be left if everything not durable were lost
  bool clean() const noexcept { return changes_.empty(); }
  std::uint64_t changes_made() const noexcept { return made_; }

  // `durable`: as a write with O_DSYNC; its sectors and, where it ends beyond it, the size.
  void change(SimChange change, bool durable = false);
  // Makes durable the first `count` changes of those ever made: those before the sync began.
  void sync(std::uint64_t count);
  // As Linux does it: each change is kept for the next sync, or forgotten though readers see it.
  void fail_sync(std::uint64_t count, Prng& prng);
  void crash(Prng& prng, std::uint32_t sector);

 private:
  enum class State : std::uint8_t { unsynced, forgotten, durable, durable_with_size };
  struct Entry {
    SimChange change;
    State state = State::unsynced;
    bool is_durable() const noexcept { return state >= State::durable; }
  };
  class Crash;
  SparseContent left_by(Crash& crash) const;
  std::size_t entries_before(std::uint64_t count) const noexcept;
  void settle();
  void account(std::uint64_t allocated) noexcept;

  SimSpace* space_;
  std::uint64_t accounted_ = 0;
  SparseContent visible_, durable_;
  std::vector<Entry> changes_;
  std::uint64_t made_ = 0;
};

}  // namespace tidemark
