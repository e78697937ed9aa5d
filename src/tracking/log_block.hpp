// A block of the log: what one log write takes to the disk.
//
//   block  = 8 sectors of 512 bytes, each with a checksum of its own, so that a torn block is told
//            from a rotten one: a sector that a power cut left out still has its old, valid content
//   sector = magic u32, records u16, number u16, epoch u64, block u64, durable_before u64, checksum u64,
//            then 29 records of {offset u64, length u64}: bytes of the disk that are to be dirty
//
// `durable_before`: when this was written, all blocks of the epoch with lower numbers were durable.
#pragma once

#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/units.hpp"

namespace tidemark::tracking {

inline constexpr std::uint64_t log_sector_bytes = 512;
inline constexpr std::uint64_t log_block_bytes = 4096;
inline constexpr std::size_t log_sectors = log_block_bytes / log_sector_bytes;
inline constexpr std::size_t log_sector_records = 29;
inline constexpr std::size_t log_block_records = log_sectors * log_sector_records;

struct LogPlace {
  std::uint64_t epoch = 0;
  std::uint64_t block = 0;
  std::uint64_t durable_before = 0;
};

// At most log_block_records ranges into log_block_bytes.
void encode_log_block(MutableBytes block, std::uint64_t store_id, const LogPlace& place, std::span<const Range> ranges);

struct LogSector {
  enum class State : std::uint8_t {
    empty,        // never written
    written,
    bad,          // neither: rotten, or of another place
  } state = State::bad;
  LogPlace place;
  std::uint16_t number = 0;
  std::vector<Range> ranges;
};
LogSector decode_log_sector(Bytes sector, std::uint64_t store_id);

}  // namespace tidemark::tracking
