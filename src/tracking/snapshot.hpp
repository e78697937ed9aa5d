// Snapshot: what a checkpoint takes of all bitmaps at one moment, and then encodes, and has not written yet.
//
// At the moment itself only what has changed is copied, for all requests wait; encoding lets others go on.
#pragma once

#include <deque>
#include <unordered_map>

#include "block/node_bitmap.hpp"
#include "io/aligned.hpp"
#include "tracking/catalogue.hpp"
#include "tracking/rules.hpp"
#include "tracking/space.hpp"

namespace tidemark::tracking {

// What a checkpoint forgets when its root counts: bits that a bitmap keeps, or all of a retired bitmap.
struct Loss {
  std::shared_ptr<NodeBitmap> bitmap;
  std::uint64_t version = 0;              // of what it keeps
  bool all = false;
};
using Losses = std::vector<Loss>;
// What is released now.
Losses released_losses(const NodeBitmaps& bitmaps);
// It is gone from where it was kept: what was not dropped anew since.
void forget(NodeBitmaps& bitmaps, const Losses& losses) noexcept;

// What every recording bitmap that no job holds has, in granules of the smallest of them; nothing when none records.
std::optional<DirtyBitmap> common_of(const NodeBitmaps& bitmaps);

struct SnapshotPlan {
  std::uint64_t store_id = 0;
  std::uint64_t size_largest = 0;
  const Losses& losses;
  const Catalogue& before;                // segments that are as they were there are not written again; until all is encoded
  bool uncover_losses = true;             // Rule
  std::uint64_t ended = 0;                // a group that has ended well: bitmaps as they are then
  std::uint64_t intended = 0;             // one that may: both
};

class Snapshot {
 public:
  struct Piece {
    std::uint64_t position;
    AlignedBuffer bytes;
  };
  Snapshot(const NodeBitmaps& bitmaps, const SnapshotPlan& plan, Space& space);
  Snapshot(const Snapshot&) = delete;
  // Makes the tables and the pieces.
  Task<> encode(Reactor& reactor);

  Catalogue catalogue;
  std::vector<Piece> pieces;              // segments, to be written in any order
  // What every recording bitmap has, in granules of the smallest of them; nothing when none records.
  std::optional<DirtyBitmap> common;

 private:
  // The bits of an entry at the moment.
  struct Pending {
    CatalogueEntry& entry;
    CatalogueEntry::Part part;
    DirtyBitmap bits;
  };
  void add(std::vector<CatalogueEntry>& entries, const NodeBitmap& bitmap, const SnapshotPlan& plan, std::uint64_t ended);
  void describe(CatalogueEntry& entry, const NodeBitmap& bitmap, const SnapshotPlan& plan);
  void describe_ended(CatalogueEntry& entry, const NodeBitmap& bitmap, bool drops);
  bool is_unchanged(CatalogueEntry& entry, CatalogueEntry::Part part);
  void store(CatalogueEntry& entry, CatalogueEntry::Part part, DirtyBitmap bits);
  const CatalogueEntry* before(const CatalogueEntry& entry) const;
  std::uint64_t place(Bytes segment);
  void end_piece();

  Space& space_;
  const std::uint64_t store_id_;
  std::unordered_map<std::string_view, const CatalogueEntry*> before_;
  std::deque<Pending> pending_;
  std::size_t room_ = 0, used_ = 0;       // of the last piece
  std::uint64_t grain_ = DirtyBitmap::granularity_max;
};

}  // namespace tidemark::tracking
