// Extents: a disk from its start to its end in pieces that are alike, for workers that take them in turn.
//
// A piece ends at a multiple of `align` unless the disk does; what ends within such a unit takes the rest along as data.
// With sectors for units all is exact.
#pragma once

#include "block/edge.hpp"
#include "block/status.hpp"
#include "task/sync.hpp"

namespace tidemark::image {

struct Piece {
  Range range;
  bool data = false;        // to be read; else it is `zero`, or decided by nothing above the base
  bool zero = false;
};

class Extents {
 public:
  struct Options {
    std::uint64_t data_max = 1 * MiB;
    std::uint64_t align = sector_size;       // a power of two, at most data_max
    BlockNode* base = nullptr;               // what comes from this one or below is neither data nor zero
    bool only_allocated = false;             // nor is what no layer has
  };
  // `area` of the disk; what lies behind the disk's end is zero.
  Extents(Edge& disk, Range area, Options options) : disk_(disk), options_(options), left_(area), turn_(disk.node().reactor()) {}

  // Empty at the end.
  Task<Piece> next();

 private:
  Task<Piece> look();
  Piece align(Piece piece) const noexcept;

  Edge& disk_;
  const Options options_;
  Range left_;
  Mutex turn_;
};

}  // namespace tidemark::image
