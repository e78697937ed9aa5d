// ChainMemo: from which layer down a piece of the disk is looked for in a long backing chain, remembered from the last
// time, so that a read of what lies deep costs one look instead of one at each layer above.
//
// Invariant: when a piece is remembered, no layer that is passed by decides anything in it.  That holds for one epoch of
// the chain: Graph begins another whenever edges change, and when a request ends that may have put something into a
// layer that others stand on.
#pragma once

#include <cstdint>
#include <vector>

#include "base/units.hpp"

namespace tidemark {

class BlockNode;
class Edge;

class ChainMemo {
 public:
  static constexpr std::uint64_t piece_bytes = 64 * KiB;

  // An edge to a layer, and the node whose driver owns it: null for the top's own.
  struct Place {
    Edge* edge = nullptr;
    BlockNode* owner = nullptr;
  };

  // No edge when it is not known.
  Place find(std::uint64_t piece, std::uint64_t epoch) const noexcept {
    if (entries_.empty()) return {};
    const Entry& entry = entries_[piece % entries_max];
    return entry.piece == piece && entry.epoch == epoch ? entry.place : Place{};
  }
  void remember(std::uint64_t piece, std::uint64_t epoch, Place place) {
    if (entries_.empty()) entries_.resize(entries_max);
    entries_[piece % entries_max] = {piece, epoch, place};
  }
  // Another graph counts its epochs anew.
  void forget() noexcept { entries_.clear(); }

 private:
  struct Entry {
    std::uint64_t piece = 0, epoch = 0;           // epochs begin at 1
    Place place;
  };
  static constexpr std::size_t entries_max = 16384;       // half a megabyte, for a gigabyte of disk

  std::vector<Entry> entries_;
};

}  // namespace tidemark
