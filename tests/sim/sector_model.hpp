// SectorModel: what each sector of a disk may hold after a crash.
//
// Every write fills its sectors with a stamp of its own; zeroes are stamp 0.  A sector may hold what
// was last durable or anything written since; a flush that returned narrows that down.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "base/units.hpp"

namespace tidemark::sim {

class SectorModel {
 public:
  using Stamp = std::uint64_t;
  static constexpr std::uint64_t sector = 512;

  explicit SectorModel(std::uint64_t size) : sectors_(size / sector) {}
  std::uint64_t size() const noexcept { return sectors_.size() * sector; }

  static void fill(MutableBytes bytes, Stamp stamp) {
    for (std::size_t at = 0; at < bytes.size(); at += 8) store_be(bytes.data() + at, stamp);
  }

  Stamp next_stamp() noexcept { return ++last_stamp_; }
  // A write of `stamp` to the sectors of `range` begins, and ends well.
  void begin(Range range, Stamp stamp) {
    for (Sector& s : in(range)) s.candidates.push_back(stamp);
  }
  void end(Range range) {
    for (Sector& s : in(range)) s.complete = s.candidates.size() - 1;
  }

  // What a flush that begins now will have made durable when it has ended: for each sector the number
  // of its last write that had ended.
  std::vector<std::uint64_t> before_flush() const {
    std::vector<std::uint64_t> writes;
    for (const Sector& s : sectors_) writes.push_back(s.dropped + s.complete);
    return writes;
  }
  void flushed(const std::vector<std::uint64_t>& writes) {
    for (std::size_t i = 0; i < sectors_.size(); ++i) {
      Sector& s = sectors_[i];
      if (writes[i] <= s.dropped) continue;            // another flush knew more
      const std::uint64_t older = writes[i] - s.dropped;
      s.candidates.erase(s.candidates.begin(), s.candidates.begin() + static_cast<std::ptrdiff_t>(older));
      s.complete -= older;
      s.dropped = writes[i];
    }
  }
  void all_durable() { flushed(before_flush()); }

  // An error names the first sector that holds what it may not.
  Result<> check(Bytes content) const {
    for (std::size_t i = 0; i < sectors_.size(); ++i) {
      const Bytes bytes = content.subspan(i * sector, sector);
      const auto stamp = load_be<std::uint64_t>(bytes.data());
      bool whole = true, allowed = false;
      for (std::size_t at = 8; at < sector; at += 8)
        whole = whole && load_be<std::uint64_t>(bytes.data() + at) == stamp;
      for (const Stamp candidate : sectors_[i].candidates) allowed = allowed || candidate == stamp;
      if (whole && allowed) continue;
      return Error(Errc::corrupt, "sector at " + std::to_string(i * sector) + " holds stamp " +
                                      std::to_string(stamp) + (whole ? "" : " and others") + ", not " +
                                      describe(sectors_[i]));
    }
    return {};
  }

 private:
  struct Sector {
    std::vector<Stamp> candidates{0};    // the first is durable
    std::size_t complete = 0;            // the last whose write has ended
    std::uint64_t dropped = 0;           // candidates that can no longer be
  };
  std::span<Sector> in(Range range) {
    return std::span(sectors_).subspan(range.offset / sector, range.length / sector);
  }
  static std::string describe(const Sector& s) {
    std::string text;
    for (const Stamp stamp : s.candidates) text += (text.empty() ? "" : " or ") + std::to_string(stamp);
    return text;
  }

  std::vector<Sector> sectors_;
  Stamp last_stamp_ = 0;
};

}  // namespace tidemark::sim
