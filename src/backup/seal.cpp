#include "backup/seal.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "io/aligned.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB;

class Sealer {
 public:
  Sealer(Edge& image, SumsWriter& sums, std::uint64_t disk_size, std::uint32_t granularity, SealStep step)
      : image_(image), sums_(sums), size_(disk_size), granularity_(granularity), step_(std::move(step)),
        buffer_(std::max<std::uint64_t>(piece_max, granularity)) {}

  Task<Seal> run() {
    BlockNode* const below = skip_filters(image_.node()).backing();
    std::uint64_t at = 0;
    while (at < size_) {
      co_await unwrap(step_(at));
      const Range wanted{at, size_ - at};
      const BlockStatus status = co_await block_status_above(image_.node(), below, wanted);
      std::uint64_t end = std::min(status.range.end(), size_);
      if (!status.allocated) at = end;
      else if (status.zero && whole(at, end)) co_await zero(at, end);
      else co_await data(at, std::min(align_up(end, granularity_), size_));
    }
    Seal seal;
    seal.sums_digest = co_await sums_.finish();
    seal.stored_bytes = stored_;
    co_return seal;
  }

 private:
  // At least one whole granule (or the disk's last) from `at`; shrinks `end` to whole ones.
  bool whole(std::uint64_t at, std::uint64_t& end) const {
    if (end != size_) end = align_down(end, granularity_);
    return is_aligned(at, granularity_) && end > at;
  }

  Task<> zero(std::uint64_t& at, std::uint64_t end) {
    co_await sums_.add_zero(at / granularity_, div_up(end - at, granularity_));
    stored_ += end - at;
    at = end;
  }

  // A granule that this layer holds in part reads through to what is below: its checksum is of the whole.
  Task<> data(std::uint64_t& at, std::uint64_t end) {
    at = align_down(at, granularity_);
    while (at < end) {
      const MutableBytes bytes = buffer_.bytes().first(std::min<std::uint64_t>(buffer_.size(), end - at));
      co_await image_.read(at, bytes);
      for (std::size_t i = 0; i < bytes.size(); i += granularity_) {
        const Bytes granule = bytes.subspan(i, std::min<std::size_t>(granularity_, bytes.size() - i));
        co_await sums_.add_data((at + i) / granularity_, Digest::of(granule));
      }
      stored_ += bytes.size();
      at += bytes.size();
      co_await unwrap(step_(at));
    }
  }

  Edge& image_;
  SumsWriter& sums_;
  std::uint64_t size_;
  std::uint32_t granularity_;
  SealStep step_;
  AlignedBuffer buffer_;
  std::uint64_t stored_ = 0;
};

}  // namespace

namespace {

Task<std::uint64_t> stored_bytes(SumsReader& sums, std::uint64_t disk_size, std::uint32_t granularity, bool full) {
  std::uint64_t stored = 0;
  while (sums.run().count != 0) {
    const SumsRun& run = sums.run();
    const bool counts = run.kind == SumsRun::Kind::data || !full;
    if (counts) stored += std::min(run.end() * granularity, disk_size) - run.first * granularity;
    co_await sums.next();
  }
  co_return stored;
}

}  // namespace

Task<Seal> read_seal(Reactor& reactor, std::string sums_path, std::uint64_t disk_size, std::uint32_t granularity,
                     bool full) {
  SumsReader sums = co_await SumsReader::open(reactor, std::move(sums_path), disk_size, granularity, std::nullopt);
  auto close = [&sums]() -> Task<> { return sums.close(); };
  Seal seal;
  seal.sums_digest = sums.digest();
  seal.stored_bytes = co_await finally(stored_bytes(sums, disk_size, granularity, full), close);
  co_return seal;
}

Task<Seal> seal_image(Edge& image, std::string sums_path, std::uint64_t disk_size, std::uint32_t granularity,
                      SealStep step) {
  SumsWriter sums = co_await SumsWriter::create(image.node().reactor(), std::move(sums_path), disk_size, granularity);
  Sealer sealer(image, sums, disk_size, granularity, std::move(step));
  auto close = [&sums]() -> Task<> { return sums.close(); };
  co_return co_await finally(sealer.run(), close);
}

}  // namespace tidemark
