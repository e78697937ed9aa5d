// Compressed clusters, read and written.  Large ones are (de)compressed on worker threads.
#include <algorithm>
#include <cerrno>

#include "format/qcow2/layout/codec.hpp"
#include "format/qcow2/pending_clusters.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

// Below this, handing the work over costs more than doing it.
constexpr std::size_t offload_min = 16 * KiB;

Task<> run_work(Reactor& reactor, std::size_t cluster_size, std::function<void()> work) {
  if (cluster_size >= offload_min) co_await reactor.offload(std::move(work));
  else work();
}

}  // namespace

Task<> Qcow2Driver::read_compressed(std::uint64_t offset, Buffers into) {
  L2Entry entry;
  {
    const ClusterMap::Entries entries = co_await map_.entries_at(offset);
    if (entries) entry = entries[0];
  }
  // The map may have changed since it was asked: then it is asked again.
  if (entry.compressed()) co_await read_compressed_from(entry, offset, into);
  else co_await read(offset, into);
}

Task<> Qcow2Driver::read_compressed_from(L2Entry entry, std::uint64_t offset, Buffers into) {
  const Geometry& g = header_.geometry;
  const CompressedPlace place = CompressedPlace::of(entry, g);
  const std::uint64_t file_size = image_.size();
  if (place.at.value >= file_size) co_await map_.invalid(offset, entry);
  AlignedBuffer data(std::min(place.length, file_size - place.at.value));
  image_.tell(DebugEvent::read_compressed);
  co_await image_.read(place.at, data.bytes());
  const bool whole = into.size() == g.cluster_size() && into.contiguous();
  AlignedBuffer scratch(whole ? 0 : g.cluster_size());
  const MutableBytes cluster = whole ? into.as_contiguous() : scratch.bytes();
  bool good = false;
  {
    const Codecs::Lease codec = co_await codecs_.take();
    std::function<void()> work = [&] { good = codec->decompress(data.bytes(), cluster); };
    co_await run_work(home().reactor(), g.cluster_size(), std::move(work));
  }
  if (!good)
    co_await Error(Errc::corrupt, "qcow2: the compressed cluster of guest offset " +
                                      std::to_string(align_down(offset, g.cluster_size())) +
                                      " cannot be decompressed", EIO);
  if (!whole) into.copy_from(cluster.subspan(g.in_cluster(offset), into.size()));
}

Task<> Qcow2Driver::write_compressed(std::uint64_t offset, Buffers from) {
  const Geometry& g = header_.geometry;
  if (g.external_data) co_await Error(Errc::unsupported, "qcow2: an image with an external data file holds no compressed data");
  const bool to_end = offset + from.size() == size();
  if (!g.cluster_aligned(offset) || (!g.cluster_aligned(from.size()) && !to_end))
    co_await Error(Errc::invalid_argument, "qcow2: compressed writes must be aligned to clusters");
  const auto pinned = pin();
  while (!from.empty()) {
    const std::uint64_t length = std::min<std::uint64_t>(from.size(), g.cluster_size());
    co_await write_compressed_cluster(offset, from.first(length));
    offset += length;
    from = from.from(length);
  }
}

Task<std::size_t> Qcow2Driver::compressed(Bytes cluster, MutableBytes out) {
  std::size_t length = 0;
  const Codecs::Lease codec = co_await codecs_.take();
  std::function<void()> work = [&] { length = codec->compress(cluster, out); };
  co_await run_work(home().reactor(), cluster.size(), std::move(work));
  co_return length;
}

// What does not get smaller is written as it is.
Task<> Qcow2Driver::write_compressed_cluster(std::uint64_t offset, Buffers from) {
  const std::uint64_t cluster_size = header_.geometry.cluster_size();
  AlignedBuffer copy(from.contiguous() && from.size() == cluster_size ? 0 : cluster_size);
  if (copy.size() != 0) {
    from.copy_to(copy.bytes().first(from.size()));
    Buffers(copy.bytes().subspan(from.size())).fill_zero();
  }
  const Bytes cluster = copy.size() != 0 ? copy.bytes() : Bytes(from.as_contiguous());
  AlignedBuffer out(cluster_size);
  const std::size_t length = co_await compressed(cluster, out.bytes().first(cluster_size - 1));
  if (length == 0) co_return co_await write(offset, from, WriteFlags::none);
  co_await watch(store_compressed(offset, out.bytes().first(length)));
}

Task<> Qcow2Driver::store_compressed(std::uint64_t offset, Bytes compressed) {
  const Geometry& g = header_.geometry;
  co_await unwrap(check_writable());
  co_await before_change();
  const Range cluster{offset, g.cluster_size()};
  auto changing = changing_.hold(cluster, RangeLock::Mode::exclusive);
  co_await changing;
  ClusterMap::Entries entries = co_await map_.writable_entries_at(offset);
  if (!map_.valid(offset, entries[0])) co_await map_.invalid(offset, entries[0]);
  const HostOffset at = co_await refcounts_.allocate_bytes(compressed.size());
  const CompressedPlace place{at, compressed.size()};
  image_.tell(DebugEvent::write_compressed);
  Result<> written = co_await image_.write(at, Buffers::of_const(compressed)).result();
  if (written) written = image_.intact();                // the storage may have lost it already
  const std::uint64_t reach = std::uint64_t{1} << std::min(56u, CompressedPlace::offset_bits(g));
  if (!written || at.value >= reach) {
    refcounts_.free_later(place.clusters(g));
    co_await unwrap(written);
    co_await Error(Errc::no_space, "qcow2: the image file is too large for compressed clusters", EFBIG);
  }
  const L2Entry old = entries[0];
  image_.tell(DebugEvent::l2_update_compressed);
  map_.set(entries, 0, place.entry(g));
  map_.release(old, DiscardCause::never);
  image_.wrote(Stage::data);
}

}  // namespace tidemark
