#include "tracking/log_block.hpp"

#include "base/assert.hpp"
#include "tracking/checksum.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint32_t magic = 0x474c4d54;    // "TMLG"
constexpr std::size_t sum_at = 32, records_at = 40, record_bytes = 16;

std::uint64_t sum_of(Bytes sector, std::uint64_t store_id) {
  return checksum(sector.first(sum_at), store_id) ^ checksum(sector.subspan(records_at), ~store_id);
}

}  // namespace

void encode_log_block(MutableBytes block, std::uint64_t store_id, const LogPlace& place, std::span<const Range> ranges) {
  TM_ASSERT(block.size() == log_block_bytes && ranges.size() <= log_block_records);
  std::memset(block.data(), 0, block.size());
  for (std::size_t i = 0; i < log_sectors; ++i) {
    const MutableBytes sector = block.subspan(i * log_sector_bytes, log_sector_bytes);
    const auto mine = ranges.first(ranges.size() < log_sector_records ? ranges.size() : log_sector_records);
    ranges = ranges.subspan(mine.size());
    store_le(sector.data(), magic);
    store_le(sector.data() + 4, static_cast<std::uint16_t>(mine.size()));
    store_le(sector.data() + 6, static_cast<std::uint16_t>(i));
    store_le(sector.data() + 8, place.epoch);
    store_le(sector.data() + 16, place.block);
    store_le(sector.data() + 24, place.durable_before);
    std::byte* at = sector.data() + records_at;
    for (const Range& range : mine) {
      store_le(at, range.offset);
      store_le(at + 8, range.length);
      at += record_bytes;
    }
    store_le(sector.data() + sum_at, sum_of(sector, store_id));
  }
}

LogSector decode_log_sector(Bytes bytes, std::uint64_t store_id) {
  LogSector sector;
  if (is_zero(bytes)) {
    sector.state = LogSector::State::empty;
    return sector;
  }
  const auto records = load_le<std::uint16_t>(bytes.data() + 4);
  if (load_le<std::uint32_t>(bytes.data()) != magic || records > log_sector_records ||
      load_le<std::uint64_t>(bytes.data() + sum_at) != sum_of(bytes, store_id))
    return sector;
  sector.state = LogSector::State::written;
  sector.number = load_le<std::uint16_t>(bytes.data() + 6);
  sector.place.epoch = load_le<std::uint64_t>(bytes.data() + 8);
  sector.place.block = load_le<std::uint64_t>(bytes.data() + 16);
  sector.place.durable_before = load_le<std::uint64_t>(bytes.data() + 24);
  for (std::size_t i = 0; i < records; ++i) {
    const std::byte* at = bytes.data() + records_at + i * record_bytes;
    sector.ranges.push_back({load_le<std::uint64_t>(at), load_le<std::uint64_t>(at + 8)});
  }
  return sector;
}

}  // namespace tidemark::tracking
