// Catalogue: the bitmaps of a store and where their segments are.  A snapshot is a catalogue and what it
// names; the root names the catalogue.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/node_bitmap.hpp"
#include "block/node_tracking.hpp"
#include "tracking/segments.hpp"

namespace tidemark::tracking {

struct CatalogueEntry {
  enum Part : std::uint8_t { bits, successor, suspected, parts };

  std::string name;
  std::string point;                      // the identifier of the point it began at; may be empty
  std::uint64_t granularity = 0;
  std::uint64_t size = 0;                 // of the disk
  std::uint64_t size_largest = 0;         // that the disk ever had while this was kept
  bool enabled = false;                   // marks, when no job holds it
  bool frozen = false;                    // a job holds it; with a successor if it marks
  bool follows = false;                   // stays with the disk when layers come and go
  bool carried = false;                   // an overlay has it, too
  std::string inconsistent;               // why it cannot be used; empty when it can
  SegmentTable tables[parts];
  // Of which bitmap it was made, and how that was then; not stored, and nothing of one that was read.
  std::weak_ptr<const NodeBitmap> made_of;
  NodeBitmap::Stamp made_at[parts];

  bool recording() const noexcept { return enabled && inconsistent.empty(); }
};

// What the bitmaps are instead if a group has ended well, which another store has on record.
struct Intent {
  std::uint64_t group = 0;
  GroupKeeper keeper;
  std::vector<CatalogueEntry> entries;
};

struct Catalogue {
  static constexpr std::size_t records_max = 64;
  static constexpr std::uint32_t bitmaps_max = 65536;

  std::vector<CatalogueEntry> entries;
  std::vector<std::uint64_t> records;     // groups that have ended well, about which other stores may ask; the oldest first
  std::optional<Intent> intent;

  bool about_groups() const noexcept { return intent || !records.empty(); }
  std::vector<std::byte> encode() const;
  // `data`: where segments may lie.
  static Result<Catalogue> decode(Bytes bytes, Range data);
};

}  // namespace tidemark::tracking
