// Stage: old data that a guest has overwritten on the disk, waiting for a slow target.
//
// Data is kept in units of 4 KiB: in memory, and beyond what memory there is for it in a scratch
// file, which has no name and so is gone when the program is.  Units of zeroes are kept nowhere; for
// what is remembered of each many of them count as one.
// Whoever wants to stage asks for room first; that waits while memory is being spilled.  When all
// that may be staged is used up the answer is an error, or a wait for the target, as the user wants.
// Room is given in order of arrival: small requests would take all that a large one waits for.
//
// Invariant: a unit that was added is found by fetch(), unchanged, until it is forgotten.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>

#include "filter/stage_pool.hpp"
#include "io/file.hpp"
#include "task/sync.hpp"

namespace tidemark {

// What happens when everything is used up (schema: OnStagingFull): the backup fails, or the guest
// waits for the target.
enum class OnStagingFull : std::uint8_t { fail, throttle };

struct StageOptions {
  static constexpr std::uint64_t most = 4 * TiB;
  std::uint64_t memory = 64 * MiB;
  std::uint64_t budget = 4 * GiB;  // of memory and scratch file together
  bool spill = true;
  std::string directory;           // for the scratch file; empty: /var/tmp
  OnStagingFull on_full = OnStagingFull::fail;
};

struct StageUsage {
  std::uint64_t staged = 0;   // bytes, in memory and spilled
  std::uint64_t spilled = 0;  // of these
  std::uint64_t budget = 0;
};

// One thread.  close() is awaited before it goes, and nobody waits for room then (asserted).
class Stage {
 public:
  static constexpr std::uint64_t unit = StagePool::unit;
  static constexpr std::uint64_t zeroes_a_unit = 64;

  Stage(Reactor& reactor, StageOptions options);
  Stage(const Stage&) = delete;

  // Makes the scratch file where the user named a directory, so that he learns at once whether it is any good.
  Task<> open();
  Task<> close();
  // Lets go of all who wait for room, now and later, with an error.
  void end(Error why);

  // Memory for some units that are to be staged; what was not added is given back.
  class [[nodiscard]] Room {
   public:
    Room(Room&& o) noexcept : stage_(o.stage_), slots_(std::exchange(o.slots_, {})) {}
    Room& operator=(Room&&) = delete;
    ~Room();
    // To read into; of the first `length` bytes.
    std::vector<iovec> memory(std::size_t length) const;

   private:
    friend class Stage;
    Room(Stage& stage, std::uint64_t units);
    Stage& stage_;
    std::vector<StagePool::Slot> slots_;  // free_slot: added
  };
  // How many units may be asked for at once: spilling always makes room for so many.
  std::uint64_t room_max() const noexcept { return room_max_; }
  // Errc::no_space when all is used up, unless it throttles.
  Task<Room> room_for(std::uint64_t units);

  // `offset` is a unit's that is not staged.
  void add(std::uint64_t offset, Room& room, std::size_t index);
  // Beyond any limit, for what would be lost else.  Whole units, up to the end of the disk; those that it has stay.
  void add(std::uint64_t offset, Bytes data);

  bool has(std::uint64_t offset) const noexcept { return units_.contains(offset / unit); }
  // The first run of units in a range of units that is not staged.
  std::optional<Range> next_missing(Range range) const noexcept;
  // Copies what is staged of a range of units to its place, and leaves the rest of `into` alone.
  Task<> fetch(Range range, MutableBytes into);
  void forget(Range range);

  StageUsage usage() const noexcept;
  // What is staged should be shipped before anything else.
  bool presses() const noexcept;
  // Somebody waits for the target.
  bool throttles() const noexcept { return throttles_; }
  // Until somebody does, or look_again(); then look again.
  Task<> wait_until_throttles(CancelToken token) { return throttling_.wait(token); }
  // More of what is staged can be shipped.
  void look_again() noexcept { throttling_.notify_all(); }

 private:
  // Where a unit is: in memory, in the scratch file, or nowhere since it is zeroes.
  class Place {
   public:
    static Place zeroes() noexcept { return Place(zero_bits); }
    static Place memory(StagePool::Slot slot) noexcept { return Place(slot); }
    static Place scratch(std::uint32_t slot) noexcept { return Place(slot | scratch_bit); }
    bool is_zero() const noexcept { return bits_ == zero_bits; }
    bool in_scratch() const noexcept { return bits_ & scratch_bit && !is_zero(); }
    std::uint32_t slot() const noexcept { return bits_ & ~scratch_bit; }

   private:
    static constexpr std::uint32_t scratch_bit = 1u << 31, zero_bits = ~0u;
    explicit Place(std::uint32_t bits) noexcept : bits_(bits) {}
    std::uint32_t bits_;
  };

  std::uint64_t used() const noexcept { return pool_.used() + spilled_ + zeroes_ / zeroes_a_unit; }
  bool can_spill() const noexcept { return options_.spill && !spill_error_; }
  Error full(bool in_budget) const;
  Task<> wait_for(std::uint64_t units);
  void start_spilling();
  Task<> spill();
  Task<std::size_t> spill_some();  // how much was tried
  Task<> write_scratch(const std::vector<StagePool::Pinned>& units,
                       const std::vector<std::uint32_t>& slots);
  std::vector<std::uint32_t> take_scratch(std::size_t count);
  Task<> open_scratch();
  std::string directory() const;

  Reactor& reactor_;
  const StageOptions options_;
  const std::uint64_t budget_;   // in units
  StagePool pool_;
  const std::uint64_t room_max_;
  std::unordered_map<std::uint64_t, Place> units_;
  File scratch_;
  std::vector<std::uint32_t> scratch_free_;
  std::uint32_t scratch_end_ = 0;
  std::uint64_t spilled_ = 0, zeroes_ = 0;
  std::optional<Error> spill_error_;   // the scratch file takes nothing any more
  std::optional<Error> ended_;
  bool spilling_ = false, throttles_ = false;
  Mutex turn_;                         // of who waits for room_
  Event room_, throttling_;
  Gate running_;
};

}  // namespace tidemark
