#include "tracking/zones.hpp"

#include <algorithm>

namespace tidemark::tracking {

Zones::Zone Zones::open(Range miss, std::uint64_t disk_size, std::uint64_t grain) noexcept {
  ++clock_;
  Writer* oldest = &writers_[0];
  for (Writer& writer : writers_) {
    // Requests of one writer overtake each other a little.
    const bool follows = writer.end != 0 && miss.offset >= writer.begin && miss.offset <= writer.end + 8 * grain &&
                         miss.end() > writer.end;
    if (follows) return extend(writer, miss, disk_size, grain);
    if (writer.used < oldest->used) oldest = &writer;
  }
  *oldest = Writer{miss.offset, miss.end(), miss.length, 0, clock_};
  return {miss, {}};
}

Zones::Zone Zones::extend(Writer& writer, Range miss, std::uint64_t disk_size, std::uint64_t grain) noexcept {
  excess_ -= std::min(excess_, writer.ahead);     // it got through its last zone
  writer.written += writer.ahead + miss.length;
  std::uint64_t ahead = std::min(writer.written / 4, zone_max);
  if (budget_ != 0) ahead = std::min(ahead, budget_ > excess_ ? (budget_ - excess_) / 2 : 0);
  ahead = std::min(align_down(ahead, grain), disk_size > miss.end() ? disk_size - miss.end() : 0);
  writer.used = clock_;
  writer.end = miss.end() + ahead;
  writer.ahead = ahead;
  excess_ += ahead;
  Zone zone{{miss.offset, writer.end - miss.offset}, {}};
  if (ahead >= 4 * grain) zone.tripwire = {miss.end() + align_down(ahead / 2, grain), grain};
  return zone;
}

std::optional<Zones::Tripped> Zones::trip(Range write, std::uint64_t disk_size, std::uint64_t grain) noexcept {
  const auto wire = std::find_if(armed_.begin(), armed_.end(), [&](Range w) { return w.overlaps(write); });
  if (wire == armed_.end()) return std::nullopt;
  const Range tripwire = *wire;
  armed_.erase(wire);
  for (Writer& writer : writers_) {
    if (writer.end == 0 || tripwire.offset < writer.begin || tripwire.end() > writer.end || writer.end >= disk_size) continue;
    ++clock_;
    const Range next{writer.end, std::min(grain, disk_size - writer.end)};
    return Tripped{tripwire, extend(writer, next, disk_size, grain)};
  }
  return Tripped{tripwire, {}};
}

}  // namespace tidemark::tracking
