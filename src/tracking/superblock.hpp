// Superblock: the root of a store.  Two copies lie at the start of the file; the valid one with the higher
// version counts.
//
// Invariant: `version` grows with every write.  A root is durable in both copies before anything is
// admitted by it, so that either copy alone tells the truth.
#pragma once

#include <array>
#include <optional>

#include "tracking/identity.hpp"
#include "tracking/mode.hpp"

namespace tidemark::tracking {

struct Superblock {
  static constexpr std::uint64_t bytes = 4096;
  static constexpr unsigned copies = 2;
  static constexpr std::uint64_t log_start = bytes * copies;
  static constexpr std::uint64_t log_bytes_max = 1 * GiB;

  std::uint64_t store_id = 0;
  bool about_groups = false;              // the catalogue is: format 2
  std::uint64_t version = 0;
  std::uint64_t generation = 0;           // of the snapshot
  Mode mode = Mode::power;
  bool clean = false;                     // closed well: the log says nothing
  bool closed = false;                    // nobody was to write since, whether or not the log says anything
  bool lost = false;                      // marks are missing: every recording bitmap is wholly dirty
  bool marked = false;                    // it counts, not being clean, only while the image carries the mark
  std::uint64_t log_bytes = 0;            // of each half
  std::uint64_t log_epoch = 0;            // the first whose records the snapshot does not have
  std::array<std::uint64_t, copies> catalogue{};    // where its two copies are
  std::uint64_t catalogue_bytes = 0;
  std::uint64_t catalogue_sum = 0;
  std::string boot_id;
  std::string layer;                      // driver of the node whose bitmaps these are
  ImageIdentity image;
  std::uint32_t mark = 0;                 // the number, of 31 bits, that the image's mark has; older programs gave it none, which is 0
  std::uint64_t digest = 0;               // clean: of the bitmaps that the image was closed with; 0: it holds none

  std::uint64_t half_start(std::uint64_t epoch) const noexcept { return log_start + epoch % 2 * log_bytes; }
  std::uint64_t data_start() const noexcept { return log_start + 2 * log_bytes; }

  std::vector<std::byte> encode() const;  // `bytes` of them
  // A block that is no superblock, but says what the file is.
  static void sign(MutableBytes block) noexcept;
  static bool is_signed(Bytes block) noexcept;
  // Nothing where the bytes are no superblock: torn, rotten, never written.  An error for one of a
  // version that this program does not know, or one that cannot be.
  static Result<std::optional<Superblock>> decode(Bytes block);
};

}  // namespace tidemark::tracking
