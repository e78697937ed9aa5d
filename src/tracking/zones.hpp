// Zones: how much more than a write asks for is put into the log, so that the writes that follow it need
// no log write of their own.  Pure policy: whatever it answers is safe, it only weighs waiting against
// what a crash leaves suspected.
//
// A writer that goes on where its last zone ended gets a zone of a quarter of what it wrote so far, so
// that suspicion stays below a quarter of what was written; the next zone is asked for when it is half
// through (a tripwire: one granule of the zone that is not admitted without a look).
#pragma once

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "base/units.hpp"

namespace tidemark::tracking {

class Zones {
 public:
  static constexpr std::uint64_t zone_max = 64 * MiB;

  // `budget`: bytes that may be suspected beyond what was written; 0: no bound of its own.
  explicit Zones(std::uint64_t budget) noexcept : budget_(budget) {}

  struct Zone {
    Range range;                          // to be logged
    Range tripwire;                       // a granule of it, or empty
  };
  // For a write that nothing admits; `miss` is in whole granules of `grain`.
  Zone open(Range miss, std::uint64_t disk_size, std::uint64_t grain) noexcept;

  // What to log ahead when a write touches a tripwire that is armed; disarms it.
  struct Tripped {
    Range tripwire;
    Zone ahead;
  };
  std::optional<Tripped> trip(Range write, std::uint64_t disk_size, std::uint64_t grain) noexcept;
  void arm(Range tripwire) { armed_.push_back(tripwire); }
  bool armed() const noexcept { return !armed_.empty(); }

  // All zones have ended; writers are remembered.
  void close_all() noexcept {
    excess_ = 0;
    armed_.clear();
    for (Writer& writer : writers_) writer.written += std::exchange(writer.ahead, 0);      // they count if it goes on behind them
  }
  // Bytes that are at most suspected without having been written.
  std::uint64_t excess() const noexcept { return excess_; }
  bool over_budget() const noexcept { return budget_ != 0 && excess_ > budget_ / 2; }

 private:
  struct Writer {
    std::uint64_t begin = 0, end = 0;     // of its run, up to the end of its last zone
    std::uint64_t written = 0;            // bytes that it asked for, and got through
    std::uint64_t ahead = 0;              // bytes of the last zone beyond the write that asked for it
    std::uint64_t used = 0;               // when it last asked
  };
  Zone extend(Writer& writer, Range miss, std::uint64_t disk_size, std::uint64_t grain) noexcept;

  std::uint64_t budget_;
  std::uint64_t excess_ = 0;
  std::uint64_t clock_ = 0;
  std::array<Writer, 16> writers_{};
  std::vector<Range> armed_;
};

}  // namespace tidemark::tracking
