// Resizing.  The header's size changes last when the disk grows and first when it shrinks, so that
// the disk never shows bytes that are not its own.
#include <algorithm>

#include "block/edge.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

Task<> Qcow2Driver::truncate(std::uint64_t new_size, Growth) {
  if (!is_aligned(new_size, sector_size))
    co_await Error(Errc::invalid_argument, "The new size must be a multiple of 512");
  co_await unwrap(check_writable());
  co_await before_change();
  if (header_.snapshots != 0 && header_.geometry.version < 3)
    co_await Error(Errc::unsupported, "Can't resize a version 2 image which has snapshots");
  if (new_size > offset_limit) co_await Error(Errc::out_of_range, "qcow2: no disk is larger than 64 PiB");
  const auto pinned = pin();
  if (new_size > size()) co_await watch(grow(new_size));
  else if (new_size < size()) co_await watch(shrink(new_size));
}

// What a longer backing file holds behind the old end must not appear, nor what lies behind it in the last cluster,
// nor what a disk that was once longer had there, where a crash came before its tables forgot it.
Task<> Qcow2Driver::grow(std::uint64_t new_size) {
  const std::uint64_t cluster_size = header_.geometry.cluster_size(), old_size = size();
  const std::uint64_t first = align_up(old_size, cluster_size), end = align_up(new_size, cluster_size);
  const std::uint64_t shown = backing_ ? std::min(end, align_up(backing_->size(), cluster_size)) : 0;
  const std::uint64_t mapped = std::min(end, map_.reach());
  if (data_file_) {
    const auto turn = co_await resizing_data_file_.lock();
    const Range behind{old_size, std::min(std::max(old_size, data_file_->size()), new_size) - old_size};
    if (data_file_->size() < new_size) co_await data_file_->truncate(new_size);
    // A raw one that was longer than the disk would show that; it stays as long.
    if (header_.data_file_raw() && !behind.empty()) co_await data_file_->write_zeroes(behind, WriteFlags::may_unmap);
  }
  co_await map_.grow_l1(end, committer_);
  co_await zero_to_cluster_end(old_size, new_size);
  if (shown > first) {
    const Range appearing{first, shown - first};
    if (header_.geometry.version < 3) co_await write_zeroes_out(appearing);
    else co_await zero_clusters(appearing, Zeroing::free_clusters);
  }
  const std::uint64_t beyond = std::max(first, shown);
  if (mapped > beyond) {
    const Range left_over{beyond, mapped - beyond};
    co_await zero_clusters(left_over, Zeroing::cut_off);
  }
  co_await committer_.flush();
  co_await header_writer_.set_size(new_size);
}

Task<> Qcow2Driver::zero_to_cluster_end(std::uint64_t from, std::uint64_t new_size) {
  const Geometry& g = header_.geometry;
  if (g.cluster_aligned(from)) co_return;
  // Subclusters differ.
  std::uint64_t end = align_up(from, g.cluster_size());
  if (g.external_data) end = std::min(end, new_size);    // a data file ends with the disk
  Range tail{from, end - from};
  while (!tail.empty()) {
    const Extent present = co_await map(tail);
    const bool below_shows = present.mapping == Mapping::below && backing_ && backing_->size() > tail.offset;
    if (present.mapping == Mapping::data || present.mapping == Mapping::compressed || below_shows)
      co_await write_zeroes_out(present.range);
    tail = {present.range.end(), tail.end() - present.range.end()};
  }
}

Task<> Qcow2Driver::shrink(std::uint64_t new_size) {
  const std::uint64_t cluster_size = header_.geometry.cluster_size();
  const std::uint64_t first = align_up(new_size, cluster_size), end = align_up(size(), cluster_size);
  co_await committer_.flush();
  co_await header_writer_.set_size(new_size);
  // The disk has its size by now, whatever becomes of this: what is left of it goes when it grows, and a flush that fails
  // is told with the next.
  const Range clusters{first, end - first};
  (void)co_await watch(zero_clusters(clusters, Zeroing::cut_off)).result();
  if (data_file_) (void)co_await data_file_->truncate(new_size).result();
  (void)co_await committer_.flush().result();
}

}  // namespace tidemark
