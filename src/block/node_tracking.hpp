// NodeTracking: keeps a node's persistent bitmaps through crashes; the block layer knows it by this alone.
//
// Owned by its node, on the node's thread.  A write of `range` may be submitted once admitted() has said
// yes or admit() has returned; its bitmaps were marked before.
#pragma once

#include <functional>
#include <string>

#include "base/units.hpp"
#include "io/reactor.hpp"

namespace tidemark {

// What the marks of persistent bitmaps survive.
enum class TrackingMode : std::uint8_t {
  power,      // loss of power: a mark is on stable storage before the guest's write is submitted
  process,    // the daemon's death; after another boot of the host the bitmaps are inconsistent
  off,        // a clean close only
};

// How a node's persistent bitmaps are to be kept.
struct TrackingOptions {
  TrackingMode mode = TrackingMode::power;
  std::string store;                // the file; empty: where it is by default
  unsigned suspect_budget = 0;      // percent of the disk that may be suspected without need; 0: no bound
};

// What people are told of it.
struct TrackingReport {
  enum class Kind : std::uint8_t {
    failed,           // it cannot be written: after a crash its bitmaps will be wholly dirty
    recovered,        // it has all marks again
    inconsistent,     // a bitmap cannot be believed
    damaged,          // its file is of no use, the bitmaps in it are gone
  } kind;
  std::string message;
};
// Where it is recorded that a group (completion-mode grouped) has ended well, for all stores that it concerns.
struct GroupKeeper {
  std::uint64_t store = 0;          // its number; 0: there is no store
  std::string path;
};
using TrackingListener = std::function<void(const std::string& node, const TrackingReport& report)>;

class NodeTracking {
 public:
  virtual ~NodeTracking() = default;

  virtual bool admitted(Range range) noexcept = 0;      // already durable: no wait
  virtual Task<> admit(Range range) = 0;                // never fails
  virtual bool survives_crashes() const noexcept = 0;   // else bitmaps last from one orderly end to the next
  virtual void resized(std::uint64_t size) noexcept = 0;

  // The disk is flushed and the persistent bitmaps are durable as they were in memory at some moment after
  // this was called; what was released before is forgotten.
  virtual Task<> save() = 0;

  // A group of jobs and actions that is about to end well, in all stores or in none (docs/decisions/0009-groups.md).
  // What it would be as the keeper: a store that has failed is made good first, for that may give it another number.
  virtual Task<GroupKeeper> keeper() = 0;
  // Durable is, with what bitmaps are, what they will be if the keeper has it on record; until settle_group().
  virtual Task<> intend(std::uint64_t group, const GroupKeeper& keeper) = 0;
  virtual void withdraw(std::uint64_t group) noexcept = 0;
  // The group has ended well: durable is what bitmaps will be, and, if others ask, that it has.  On error it has not.
  // `recorded_as`: the number of the store by which they ask; 0: nobody does.
  virtual Task<> decide(std::uint64_t group, std::uint64_t recorded_as) = 0;
  // The keeper has it on record.  On error that is to stay.
  virtual Task<> settle_group(std::uint64_t group) = 0;
  virtual void forget_group(std::uint64_t group) noexcept = 0;

  // Around the closing of the node, whose writes have ended: while its bitmaps and driver are there, and
  // when the image below is closed, too, and the node is gone.
  virtual Task<> before_close() = 0;
  virtual Task<> after_close() = 0;

  // To another thread, while the node has no users: nothing is in flight, nor about to be, while it is settled; settle() waits
  // for that, and something may have begun again when its caller goes on.
  virtual Task<> settle() = 0;
  virtual bool settled() const noexcept = 0;
  virtual void leave() noexcept = 0;
  virtual void arrive(Reactor& reactor) noexcept = 0;
};

}  // namespace tidemark
