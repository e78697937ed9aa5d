#include "tracking/log_scan.hpp"

#include <algorithm>

#include "tracking/log_block.hpp"

namespace tidemark::tracking {
namespace {

class Scan {
 public:
  Scan(std::uint64_t store_id, std::uint64_t epoch) : store_id_(store_id), epoch_(epoch) {}

  void block(std::uint64_t number, Bytes bytes) {
    std::size_t mine = 0;
    for (std::size_t i = 0; i < log_sectors; ++i) {
      LogSector sector = decode_log_sector(bytes.subspan(i * log_sector_bytes, log_sector_bytes), store_id_);
      if (sector.state == LogSector::State::empty) continue;
      if (sector.state == LogSector::State::bad || sector.place.block != number || sector.number != i) {
        broken("a block of its log is damaged");
        continue;
      }
      found_.epoch_last = std::max(found_.epoch_last, sector.place.epoch);
      if (sector.place.epoch > epoch_) broken("its log is newer than its root");
      if (sector.place.epoch != epoch_) continue;
      ++mine;
      durable_before_ = std::max(durable_before_, sector.place.durable_before);
      found_.ranges.insert(found_.ranges.end(), sector.ranges.begin(), sector.ranges.end());
    }
    if (mine == log_sectors && whole_ == number) ++whole_;
  }

  LogScan finish() && {
    if (whole_ < durable_before_) broken("a block of its log is missing");
    return std::move(found_);
  }

 private:
  void broken(std::string why) {
    if (!found_.broken) found_.broken = std::move(why);
  }

  std::uint64_t store_id_, epoch_;
  std::uint64_t whole_ = 0;               // so many blocks from the start are all there
  std::uint64_t durable_before_ = 0;
  LogScan found_;
};

}  // namespace

LogScan scan_log(Bytes half, std::uint64_t store_id, std::uint64_t epoch) {
  Scan scan(store_id, epoch);
  for (std::uint64_t at = 0; half.size() - at >= log_block_bytes; at += log_block_bytes)
    scan.block(at / log_block_bytes, half.subspan(at, log_block_bytes));
  return std::move(scan).finish();
}

}  // namespace tidemark::tracking
