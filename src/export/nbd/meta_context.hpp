// MetaContext: one kind of block status that an export offers, by a name (base:allocation,
// qemu:allocation-depth, qemu:dirty-bitmap:NAME).
#pragma once

#include <string>
#include <vector>

#include "block/edge.hpp"
#include "block/node_bitmap.hpp"
#include "nbd/transmission.hpp"
#include "task/cancel.hpp"

namespace tidemark {

struct MetaContext {
  enum class Kind : std::uint8_t { allocation, depth, dirty_bitmap };
  Kind kind = Kind::allocation;
  std::string name;
  std::shared_ptr<const NodeBitmap> bitmap{};        // dirty_bitmap: busy while it is exported

  // The status of the disk from wanted.offset on, for at most wanted.length bytes, in at most
  // `extents_max` extents whose lengths are multiples of `align` (but for the disk's end), as the
  // request is.  Waits while the node is drained; ends early with what it has when the token is asked.
  struct Query {
    Range wanted;
    std::size_t extents_max = 1;
    std::uint32_t align = 1;
  };
  Task<std::vector<nbd::Extent>> extents(Edge& disk, Query query, CancelToken token) const;

 private:
  struct Piece {
    std::uint64_t length;
    std::uint32_t flags;
  };
  Task<Piece> piece_at(BlockNode& node, Range wanted) const;
  Task<Piece> aligned_piece_at(BlockNode& node, Range wanted, std::uint32_t align) const;
  std::uint32_t combine(std::uint32_t a, std::uint32_t b) const noexcept;
};

// The indices of the contexts that a client's queries name, in order, each once.  With `listing`, a
// name without a leaf stands for all below it, and no query for all there are; in a selection
// neither names any.
std::vector<std::uint32_t> match_contexts(const std::vector<MetaContext>& all,
                                          const std::vector<std::string>& queries, bool listing);

}  // namespace tidemark
