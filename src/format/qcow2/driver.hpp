// Qcow2Driver: QEMU's qcow2 image format, versions 2 and 3.
//
// It never opens a file by itself: `file` is given to it, and for the backing file the header only
// yields a name; who opens the image opens that too, through its own gate, and hands it over with
// set_backing().  Until then what is below reads as zeroes.
//
// Invariants.  After a crash at any write, flushed data is there and the image has leaked clusters
// at most (WriteOrder).  One cluster's mapping is changed by one request at a time (changing_).
// Errors: Errc::corrupt for what the image says wrongly; once found in a writable image, the corrupt
// bit is set and further writes fail.
#pragma once

#include <memory>
#include <string>

#include "block/mapped_driver.hpp"
#include "format/qcow2/bitmaps.hpp"
#include "format/qcow2/cluster_map.hpp"
#include "format/qcow2/committer.hpp"
#include "io/reactor.hpp"
#include "task/range_lock.hpp"

namespace tidemark {

struct Qcow2OpenOptions {
  bool read_only = false;
  bool pass_discards = true;            // freed clusters are discarded in the file
  bool keeps_content = false;           // what the disk reads as will not be changed: its bitmaps stay true
  std::uint64_t l2_cache_bytes = 32 * MiB;
  std::uint64_t refcount_cache_bytes = 1 * MiB;
  // What must be durable before what; only tests have another.
  qcow2::WriteOrder write_order = qcow2::WriteOrder::standard();
};

struct Qcow2CreateOptions {
  std::uint64_t size = 0;
  std::uint64_t cluster_size = 64 * KiB;
  std::uint32_t version = 3;            // "compat": 2 is 0.10, 3 is 1.1
  std::uint32_t refcount_bits = 16;
  qcow2::CompressionType compression = qcow2::CompressionType::zlib;
  bool lazy_refcounts = false;
  std::string backing_file, backing_format;
};

class Qcow2Driver final : public MappedDriver {
 public:
  // Errors say what is wrong with the image, without its name: "Unsupported cluster size: 2^40".
  static Task<std::unique_ptr<Qcow2Driver>> open(std::unique_ptr<Edge> file, Qcow2OpenOptions options);

  // Makes `file` an empty image; what was in it is gone.  Errors are QEMU's where users see them.
  static Task<> create(Edge& file, const Qcow2CreateOptions& options);

  // The backing file that an image names, as a path from here; nothing when the name is no path.
  static std::optional<std::string> backing_path(const std::string& image, std::string name);

  // As the image names it; empty: it has none.
  const std::string& backing_file() const noexcept { return header_.backing_name; }
  const std::string& backing_format() const noexcept { return header_.backing_format; }
  void set_backing(std::unique_ptr<Edge> backing) noexcept { backing_ = std::move(backing); }

  // The bitmaps that the image holds and that count.  They are replaced while nothing else is under way.
  bool has_bitmaps() const noexcept { return header_.has_bitmaps && header_.has(qcow2::Autoclear::bitmaps); }
  Task<std::vector<qcow2::BitmapEntry>> bitmap_entries();
  Task<DirtyBitmap> load_bitmap(qcow2::BitmapEntry entry);
  Task<> store_bitmaps(std::vector<Qcow2Bitmap> bitmaps);

  std::string_view name() const noexcept override { return "qcow2"; }
  std::uint64_t size() const noexcept override { return align_up(header_.size, sector_size); }
  BlockLimits limits() const noexcept override;
  std::vector<Edge*> edges() const override;

  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override;
  Task<> flush() override;
  bool supports_compression() const noexcept override { return true; }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override;
  Task<> truncate(std::uint64_t size) override;
  Task<ImageInfo> info() override;
  Task<> close() override;

 protected:
  Edge& storage() const noexcept override { return *file_; }
  Edge* below() const noexcept override { return backing_.get(); }
  std::optional<Extent> map_now(Range wanted) noexcept override { return map_.find_now(wanted); }
  Task<Extent> map_slow(Range wanted) override;
  Task<> read_compressed(std::uint64_t offset, Buffers into) override;
  std::optional<Extent> in_place_now(Range wanted) noexcept override;
  Task<std::unique_ptr<PendingWrite>> prepare_write(Range wanted) override;

 private:
  class PendingClusters;
  enum class Zeroing : std::uint8_t { keep_clusters, free_clusters, discard };

  Qcow2Driver(std::unique_ptr<Edge> file, qcow2::Header header, const Qcow2OpenOptions& options);
  static Task<qcow2::Header> read_header(Edge& file);
  Task<> load();
  Task<> prepare_to_write();

  bool stands_on_another() const noexcept { return backing_ || !header_.backing_name.empty(); }
  Result<> check_writable() const;
  Task<> relieve();
  template <class T>
  Task<T> watch(Task<T> work);
  Task<> mark_corrupt();

  Task<std::unique_ptr<PendingWrite>> prepare(Range wanted);
  Task<std::uint64_t> clusters_to_place(Range wanted);
  std::uint64_t clusters_to_place(const qcow2::ClusterMap::Entries& entries, std::uint64_t max) const noexcept;
  Task<> place(PendingClusters& pending, Range wanted, std::uint64_t clusters);
  Task<qcow2::Refcounts::Allocation> allocate(std::uint64_t clusters);

  Task<> zero_clusters(Range range, Zeroing how);
  Task<> zero_slice(Range range, Zeroing how);
  qcow2::L2Entry zeroed(qcow2::L2Entry entry, Zeroing how) const noexcept;

  Task<> write_compressed_cluster(std::uint64_t offset, Buffers from);
  Task<> store_compressed(std::uint64_t offset, Bytes compressed);
  Task<> read_compressed_from(qcow2::L2Entry entry, std::uint64_t offset, Buffers into);

  Result<> check_bitmaps(const std::vector<Qcow2Bitmap>& bitmaps) const;
  Task<std::vector<std::uint64_t>> bitmap_table(const qcow2::BitmapEntry& entry);
  Task<> write_bitmap(qcow2::BitmapEntry& entry, const DirtyBitmap& bits);
  Task<qcow2::HostOffset> write_clusters(Bytes content);
  Task<> free_bitmap(const qcow2::BitmapEntry& entry);
  Task<> point_at_directory(qcow2::HostOffset at, std::uint64_t length, std::size_t bitmaps);

  Task<> grow(std::uint64_t size);
  Task<> shrink(std::uint64_t size);
  Task<> zero_to_cluster_end(std::uint64_t from);

  std::unique_ptr<Edge> file_, backing_;
  qcow2::Header header_;
  const bool read_only_, keeps_content_;
  qcow2::ImageFile image_;
  qcow2::HeaderWriter header_writer_;
  qcow2::FreeList frees_;
  qcow2::Refcounts refcounts_;
  qcow2::ClusterMap map_;
  qcow2::Committer committer_;
  RangeLock changing_;                  // guest ranges whose mapping a request is about to change
  bool marked_corrupt_ = false;
};

}  // namespace tidemark
