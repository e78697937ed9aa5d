#include "backup/sums_recorder.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "task/finally.hpp"

namespace tidemark {
namespace {

Digest digest_of(const Buffers& bytes) {
  if (bytes.contiguous()) return Digest::of(bytes.as_contiguous());
  DigestStream digest;
  bytes.for_each([&](MutableBytes piece) { digest.update(piece); });
  return digest.digest();
}

}  // namespace

SumsRecorder::SumsRecorder(Reactor& reactor, std::uint64_t disk_size, Options options)
    : reactor_(reactor), options_(std::move(options)), data_(disk_size, granularity), zero_(disk_size, granularity),
      spilling_(reactor) {}

Task<> SumsRecorder::check(Reactor& reactor, std::string path) {
  const bool there = co_await fs::exists(reactor, path);
  const std::string directory = (std::filesystem::path(path).parent_path() / ".").string();
  std::string looked_at = there ? path : directory;
  const FileInfo info = co_await fs::stat(reactor, std::move(looked_at));
  if (there && (info.type != FileInfo::Type::regular || info.size != 0))
    co_await Error(Errc::exists, fmt::format("'{}' is not an empty file, and checksums overwrite none", path));
}

Task<> SumsRecorder::data(std::uint64_t offset, Buffers data) {
  TM_ASSERT(is_aligned(offset, granularity));
  const Range range{offset, data.size()};
  for (std::uint64_t granule = offset / granularity; !data.empty(); ++granule) {
    const Buffers piece = data.first(std::min<std::size_t>(data.size(), granularity));
    std::unique_ptr<Leaf>& leaf = leaves_[granule / leaf_granules];
    if (!leaf) leaf = std::make_unique<Leaf>();
    leaf->digests[granule % leaf_granules] = digest_of(piece);
    leaf->known.set(granule % leaf_granules);
    data = data.from(piece.size());
  }
  data_.set(range);
  zero_.clear(range);
  if (leaves_.size() > options_.leaves) co_await spill();
}

Task<> SumsRecorder::zeroes(Range range) {
  zero_.set(range);
  data_.clear(range);
  co_return;
}

// What is told meanwhile goes to new leaves, and is written after these.
Task<> SumsRecorder::spill() {
  const auto turn = co_await spilling_.lock();
  if (!scratch_.is_open()) {
    OpenFlags flags;
    flags.write = flags.temporary = true;
    scratch_ = co_await File::open(reactor_, options_.scratch_directory, flags);
  }
  Leaves taken = std::exchange(leaves_, {});
  const Result<> spilled = co_await spill_all(taken).result();
  if (spilled) co_return;
  put_back(std::move(taken));
  co_await spilled.error().with_context("checksums");
}

// What was told meanwhile is newer.
void SumsRecorder::put_back(Leaves taken) {
  for (auto& [number, leaf] : taken) {
    std::unique_ptr<Leaf>& now = leaves_[number];
    if (now)
      for (std::size_t i = 0; i < leaf_granules; ++i)
        if (now->known[i]) leaf->digests[i] = now->digests[i], leaf->known.set(i);
    now = std::move(leaf);
  }
}

Task<> SumsRecorder::spill_all(Leaves& leaves) {
  for (const auto& [number, leaf] : leaves) co_await spill_leaf(number, *leaf);
}

Task<> SumsRecorder::spill_leaf(std::uint64_t number, const Leaf& leaf) {
  std::array<std::byte, leaf_granules * Digest::size> bytes;
  for (std::size_t i = 0; i < leaf_granules; ++i) leaf.digests[i].store(bytes.data() + i * Digest::size);
  for (std::size_t first = 0; first < leaf_granules;) {
    std::size_t end = first;
    while (end < leaf_granules && leaf.known[end]) ++end;
    const Bytes run = Bytes(bytes).subspan(first * Digest::size, (end - first) * Digest::size);
    const std::uint64_t at = (number * leaf_granules + first) * Digest::size;
    if (end != first) co_await scratch_.write(at, Buffers::of_const(run));
    first = end + 1;
  }
}

Task<> SumsRecorder::finish() {
  was_there_ = co_await fs::exists(reactor_, options_.path);
  co_await check(reactor_, options_.path);
  written_ = true;
  SumsWriter sums = co_await SumsWriter::fill(reactor_, options_.path, data_.size(), granularity);
  auto close_sums = [&sums]() -> Task<> { return sums.close(); };
  co_await finally(write_all(sums), close_sums);
}

Task<> SumsRecorder::write_all(SumsWriter& sums) {
  const std::uint64_t size = data_.size();
  for (std::uint64_t at = 0; at < size;) {
    const auto data = data_.next_dirty_area(at, size), zero = zero_.next_dirty_area(at, size);
    if (!data && !zero) break;
    const bool data_first = data && (!zero || data->offset < zero->offset);
    const Range range = data_first ? *data : *zero;
    at = range.end();
    Task<> writing = data_first ? write_data(sums, range)
                                : sums.add_zero(range.offset / granularity, div_up(range.length, granularity));
    co_await std::move(writing);
  }
  (void)co_await sums.finish();
}

Task<> SumsRecorder::write_data(SumsWriter& sums, Range range) {
  const std::uint64_t end = div_up(range.end(), granularity);
  std::array<std::byte, leaf_granules * Digest::size> bytes;
  for (std::uint64_t granule = range.offset / granularity; granule < end;) {
    const std::uint64_t number = granule / leaf_granules, from = number * leaf_granules;
    const auto found = leaves_.find(number);
    const Leaf* const leaf = found == leaves_.end() ? nullptr : found->second.get();
    if (scratch_.is_open()) co_await scratch_.read(from * Digest::size, MutableBytes(bytes));
    for (; granule < end && granule < from + leaf_granules; ++granule) {
      const std::size_t i = granule - from;
      const bool here = leaf && leaf->known[i];
      const Digest digest = here ? leaf->digests[i] : Digest::load(bytes.data() + i * Digest::size);
      co_await sums.add_data(granule, digest);
    }
  }
}

Task<> SumsRecorder::close(bool wanted) {
  if (scratch_.is_open()) (void)co_await scratch_.close().result();
  leaves_.clear();
  if (wanted || !std::exchange(written_, false)) co_return;
  if (!was_there_) co_return co_await fs::unlink(reactor_, options_.path);
  OpenFlags flags;
  flags.write = flags.truncate = true;
  File file = co_await File::open(reactor_, options_.path, flags);
  co_await file.close();
}

}  // namespace tidemark
