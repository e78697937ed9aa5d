// MappedDriver: the base of image formats.  A format says where bytes live; the bytes are moved here,
// once for all formats.
//
//   read    map() gives extents: stored ones are read from the storage child, zeroes are filled in,
//           the rest comes from below
//   write   what has its place is written there; what has none is prepared (a place is allocated,
//           the map unchanged), the data and what must be copied beside it are written, and only
//           then commit() changes the map
//
// Invariant: the map never points at bytes that were not written yet.
#pragma once

#include <memory>
#include <optional>

#include "block/chain_memo.hpp"
#include "block/driver.hpp"
#include "block/mapped_pins.hpp"
#include "io/aligned.hpp"
#include "task/sync.hpp"

namespace tidemark {

// A piece of a write that has been given a place, exclusively: until it goes, no other write, zeroing
// or discard changes the map of the units it touches.
class PendingWrite {
 public:
  virtual ~PendingWrite() = default;
  PendingWrite(const PendingWrite&) = delete;

  Range range;                          // the piece, from the start of what was asked for
  std::uint64_t host_offset = 0;        // of range.offset, in the storage child
  Range before, after;                  // beside it: keep their content, so are copied along
  bool reads_as_zero = false;           // the place holds zeroes: zeroes need not be copied to it

  // The data is written: the map points at it from now on.  Fails when it is lost already: then nothing has changed.
  virtual Result<> commit() noexcept = 0;
  // It is not: the place is given back.
  virtual void abort() noexcept = 0;

 protected:
  PendingWrite() = default;
};

class MappedDriver : public BlockDriver {
 public:
  Task<Extent> map(Range wanted) final;
  Task<> read(std::uint64_t offset, Buffers into) final;
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) final;
  void arrive() noexcept final { memo_.forget(); }

 protected:
  explicit MappedDriver(Reactor& reactor) noexcept : BlockDriver(reactor) {}

  virtual Edge& storage() const noexcept = 0;
  virtual Edge* below() const noexcept { return nullptr; }
  virtual Edge& image() const noexcept { return storage(); }   // where the map is

  // The first extent of `wanted`, from memory alone; none when that takes I/O or is an error.
  virtual std::optional<Extent> map_now(Range wanted) noexcept = 0;
  virtual Task<Extent> map_slow(Range wanted) = 0;
  // Within one Mapping::compressed extent.
  virtual Task<> read_compressed(std::uint64_t offset, Buffers into);

  // The first bytes of `wanted` that a write may overwrite where they are; none when they have no
  // place of their own, or to find it takes I/O.
  virtual std::optional<Extent> in_place_now(Range wanted) noexcept = 0;
  // A place for the first bytes of `wanted`.  Null: in_place_now() has one now.
  virtual Task<std::unique_ptr<PendingWrite>> prepare_write(Range wanted) = 0;

  // For what drivers do beside reads and writes with extents of the map: hold one of these.
  ExtentPins::Guard pin() noexcept { return ExtentPins::Guard(pins_); }
  ExtentPins& pins() noexcept { return pins_; }

  // Writes a prepared piece and commits it, or aborts.
  Task<> carry_out(PendingWrite& pending, Buffers from);

 private:
  struct Pieces;
  Task<> read_extent(Extent extent, Buffers into);
  Task<> read_below(std::uint64_t offset, Buffers into);
  ChainMemo::Place layer_of(Range wanted);
  ChainMemo::Place pass_layers(ChainMemo::Place place, Range wanted, unsigned* passed = nullptr) const noexcept;
  Task<> read_pieces(Range wanted, Buffers into);
  Task<> read_worker(Pieces& job);
  Task<> side_by_side(Pieces& job, Task<> (MappedDriver::*worker)(Pieces&));
  static Task<> until_failure(Pieces& job, Task<> worker);
  Task<> write_pieces(Range wanted, Buffers from);
  Task<> write_worker(Pieces& job);
  Task<> write_with_copies(PendingWrite& pending, Buffers from);
  Task<AlignedBuffer> present_content(Range range, bool zero_may_be_skipped);
  Task<bool> is_known_zero(Range range);

  ExtentPins pins_;
  ChainMemo memo_;
};

}  // namespace tidemark
