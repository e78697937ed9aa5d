// Qcow2Driver: QEMU's qcow2 image format, versions 2 and 3.
//
// It never opens a file by itself: `file` is given to it, and for the backing file the header only
// yields a name; who opens the image opens that too, through its own gate, and hands it over with
// set_backing().  Until then what is below reads as zeroes.
//
// Invariants.  After a crash at any write, flushed data is there and the image has leaked clusters
// at most (WriteOrder).  One cluster's mapping is changed by one request at a time (changing_).
// Errors: Errc::corrupt for what the image says wrongly; once found in a writable image, the corrupt
// bit is set and further writes fail.  After a flush by which the storage has lost something (ImageFile::loss()) every write and
// flush fails until the image is opened anew, so that who writes hears of it at once and the file stays as it is; reads show
// what is in the file.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "block/mapped_driver.hpp"
#include "format/qcow2/bitmaps.hpp"
#include "format/qcow2/layout/cache_sizes.hpp"
#include "format/qcow2/layout/codec.hpp"
#include "format/qcow2/tables/cluster_map.hpp"
#include "format/qcow2/tables/committer.hpp"
#include "format/qcow2/tables/snapshot_table.hpp"
#include "io/reactor.hpp"
#include "task/range_lock.hpp"

namespace tidemark {

struct Qcow2OpenOptions {
  bool read_only = false;
  bool keeps_content = false;           // what the disk reads as will not be changed: its bitmaps stay true
  bool bitmaps_follow = false;          // the caller sees to the bitmaps before anything is written
  // When freed clusters are discarded in the file.
  qcow2::DiscardCauses pass_discards = qcow2::causes(qcow2::DiscardCause::request, qcow2::DiscardCause::snapshot);
  std::string snapshot;                 // id or name of one to show instead of the present; only read
  bool data_file_follows = false;       // the caller will set_data_file(), or not use the image, where it needs one
  bool discard_no_unref = false;        // what is discarded keeps its place
  std::optional<bool> lazy_refcounts;   // none: as the image says
  qcow2::OverlapChecks overlap_checks = qcow2::cached_overlap_checks;
  qcow2::CacheOptions caches;
  std::optional<std::uint64_t> l2_slice_bytes;   // of an L2 table, read and written at a time; none: 4 KiB or a cluster
  // What was not used for so long leaves the caches; zero: when there is need.
  Duration cache_clean_interval = std::chrono::seconds(600);
  // What must be durable before what; only tests have another.
  qcow2::WriteOrder write_order = qcow2::WriteOrder::standard();
};

// What of a disk's space is reserved when it is made: nothing, places in the image, or places and space for them.
enum class Qcow2Preallocation : std::uint8_t { off, metadata, falloc, full };

struct Qcow2CreateOptions {
  std::uint64_t size = 0;
  std::uint64_t cluster_size = 64 * KiB;
  std::uint32_t version = 3;            // "compat": 2 is 0.10, 3 is 1.1
  std::uint32_t refcount_bits = 16;
  qcow2::CompressionType compression = qcow2::CompressionType::zlib;
  bool lazy_refcounts = false;
  bool extended_l2 = false;
  std::string backing_file, backing_format;
  std::string data_file;                // the name of the external data file; empty: none
  bool data_file_raw = false;
  Qcow2Preallocation preallocation = Qcow2Preallocation::off;
  CancelToken interrupted = {};         // making space may take long
};

namespace qcow2 {
class NextTables;
}

// What is to change; the rest stays.
struct Qcow2AmendOptions {
  std::optional<std::uint32_t> version, refcount_bits;
  std::optional<bool> lazy_refcounts, data_file_raw;
  std::optional<std::string> backing_file, backing_format, data_file;
  std::optional<std::uint64_t> size;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;     // of what takes long; begins again with each
};

class Qcow2Driver final : public MappedDriver {
 public:
  // Errors say what is wrong with the image, without its name: "Unsupported cluster size: 2^40".
  static Task<std::unique_ptr<Qcow2Driver>> open(std::unique_ptr<Edge> file, Qcow2OpenOptions options);

  // Makes `file` an empty image; what was in it, and in the data file, is gone.  Errors are QEMU's where users
  // see them.
  static Task<> create(Edge& file, Qcow2CreateOptions options, Edge* data_file = nullptr);

  // The backing file that an image names, as a path from here; nothing when the name is no path.
  static std::optional<std::string> backing_path(const std::string& image, std::string name);

  // As the image names it; empty: it has none.
  const std::string& backing_file() const noexcept { return header_.backing_name; }
  const std::string& backing_format() const noexcept { return header_.backing_format; }
  void set_backing(std::unique_ptr<Edge> backing) noexcept { backing_ = std::move(backing); }   // before it has a node
  std::unique_ptr<Edge>* backing_place() noexcept override { return &backing_; }
  Task<> open_anew() override;
  Result<> check_backing_name(std::string name, std::string format) const;       // whether the header can take it
  // It can be written, but for a loss.
  bool lost() noexcept override { return !read_only_ && image_.loss().has_value(); }
  // As if the storage had lost something, which the next flush tells: nothing is written until the image is opened anew.
  void lose(std::string_view why);
  bool lost_by(const Error&) const noexcept override { return given_up_; }
  // Options of an image that is open, which nobody uses meanwhile.  What its memory is laid out for stays.
  Task<> change_options(Qcow2OpenOptions options);
  Result<> check_change(const Qcow2OpenOptions& options) const;      // whether it may
  const Qcow2OpenOptions& options() const noexcept { return options_; }
  // Pieces of tables that no request has used for cache_clean_interval leave memory: called now and then, and by requests.
  void clean_caches() noexcept;
  std::size_t cached_tables() noexcept { return map_.l2().slices() + refcounts_.blocks().slices(); }     // pieces

  // The guest's data is in a file of its own, which must be set before the image is used.
  bool needs_data_file() const noexcept { return header_.geometry.external_data; }
  const std::string& data_file() const noexcept { return header_.data_file; }      // as the image names it, or empty
  void set_data_file(std::unique_ptr<Edge> data_file) noexcept;

  // Internal snapshots.  Who makes, applies or deletes one holds the node drained, and sees to bitmaps when one is
  // applied: the disk's content and size are then the snapshot's.  A crash leaves the image as before or after.
  std::vector<Qcow2Snapshot> snapshots() const;
  Result<std::size_t> find_snapshot(std::string_view id_or_name) const;
  Task<> create_snapshot(Qcow2Snapshot wanted);          // no state of a machine is kept; an empty id is chosen
  Task<> apply_snapshot(std::string id_or_name);
  Task<> delete_snapshot(std::string id_or_name);

  Task<> write_backing_name(std::string name, std::string format) override;
  // Changes what the options say; the node is drained by the caller.  Names are only written down.
  Task<> amend(Qcow2AmendOptions options);
  // truncate(), with space for what the disk grows by.
  Task<> resize(std::uint64_t new_size, Qcow2Preallocation preallocation);
  // Space for all from there on, where nothing has any yet.
  Task<> reserve(std::uint64_t from, Qcow2Preallocation preallocation, CancelToken interrupted = {});
  // Gives up what the disk has here in whole clusters of a range: it reads as what is below.  Nobody writes there meanwhile.
  Task<> uncover(Range range);
  // What is freed by that goes back to the file with later requests, a little each, and, where it is much, by this.
  Task<> give_back_if_much();
  // uncover() of all of it; durable when it returns.
  Task<> empty();

  // The bitmaps that the image holds and that count.  They are replaced while nothing else is under way.
  bool can_have_bitmaps() const noexcept { return header_.geometry.version >= 3; }
  bool has_bitmaps() const noexcept { return header_.has_bitmaps && header_.has(qcow2::Autoclear::bitmaps); }
  // It held some, and was written by a program that knows nothing of them.
  bool has_dead_bitmaps() const noexcept { return header_.has_bitmaps && !header_.has(qcow2::Autoclear::bitmaps); }
  Task<std::vector<qcow2::BitmapEntry>> bitmap_entries();
  Task<DirtyBitmap> load_bitmap(qcow2::BitmapEntry entry);
  Task<> store_bitmaps(std::vector<Qcow2Bitmap> bitmaps);
  // Durably, each.  In use: nobody believes them if this image is not closed well.
  Task<> use_bitmaps();
  Task<> drop_bitmaps();
  // Nobody but who has the image's tracking store has opened it for writing since that was said.
  bool tracked() const noexcept { return header_.has(qcow2::Autoclear::tracked); }
  std::uint32_t tracked_by() const noexcept;             // the store's number, of 31 bits
  Task<> set_tracked(std::uint32_t store);
  Task<> set_untracked();

  std::string_view name() const noexcept override { return "qcow2"; }
  std::uint64_t size() const noexcept override { return align_up(header_.size, sector_size); }
  BlockLimits limits() const noexcept override;
  std::vector<Edge*> edges() const override;

  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override;
  Task<> flush() override;
  bool supports_compression() const noexcept override { return !header_.geometry.external_data; }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override;
  Task<> truncate(std::uint64_t size, Growth growth = Growth::zeroes) override;
  Task<> set_read_only(bool read_only) override;
  Task<ImageInfo> info() override;
  Task<> close() override;

 protected:
  Edge& storage() const noexcept override { return data_file_ ? *data_file_ : *file_; }
  Edge* below() const noexcept override { return backing_.get(); }
  Edge& image() const noexcept override { return *file_; }
  std::optional<Extent> map_now(Range wanted) noexcept override {
    if (!shows_file()) return {};
    return map_.find_now(wanted);
  }
  Task<Extent> map_slow(Range wanted) override;
  Task<> read_compressed(std::uint64_t offset, Buffers into) override;
  std::optional<Extent> in_place_now(Range wanted) noexcept override;
  Task<std::unique_ptr<PendingWrite>> prepare_write(Range wanted) override;

 private:
  class PendingClusters;
  // `forget` makes nothing of what reads as zeroes, where nothing is below; `cut_off` of what is stored, where nothing
  // of the disk is; `uncover` of anything, for what is below to show.  `in_file`: a raw data file has been given the zeroes.
  enum class Zeroing : std::uint8_t { keep_clusters, free_clusters, discard, forget, cut_off, uncover, in_file };

  Qcow2Driver(std::unique_ptr<Edge> file, qcow2::Header header, const Qcow2OpenOptions& options);
  static Task<qcow2::Header> read_header(Edge& file);
  static Task<qcow2::Header> read_repaired(Edge& file, const Qcow2OpenOptions& options);
  static Result<> check_options(const qcow2::Header& header, const Qcow2OpenOptions& options);
  Task<> load(std::string snapshot);
  Task<> prepare_to_write();
  Task<> show_snapshot(std::string id_or_name);
  Result<> claim_metadata();
  void look_after(const std::vector<qcow2::HostCluster>& inactive_l2);
  Task<std::vector<qcow2::HostCluster>> inactive_l2_tables(const qcow2::SnapshotTable& snapshots);
  Task<> complete();
  Task<> end_lazily();
  Task<> prepare_again();
  Task<> read_anew(qcow2::Header header);
  Result<> check_same(const qcow2::Header& now) const;

  bool stands_on_another() const noexcept { return backing_ || !header_.backing_name.empty(); }
  Result<> check_writable();
  Task<Extent> find(Range wanted);
  bool shows_file() noexcept { return read_only_ || !image_.loss() || file_shown_; }
  Task<> show_file();
  Task<> before_change();
  // Clusters that nobody uses any more, to the allocator and to the file: that may take long where the file is told.
  static constexpr Duration without_limit = Duration::max();
  Task<> give_back(Duration at_most);
  template <class T>
  Task<T> watch(Task<T> work);
  Task<> mark_corrupt();

  Task<std::unique_ptr<PendingWrite>> prepare(Range wanted);
  Task<std::uint64_t> clusters_to_place(Range wanted);
  std::uint64_t clusters_to_place(const qcow2::ClusterMap::Entries& entries, std::uint64_t offset,
                                  std::uint64_t max) const noexcept;
  Task<> place(PendingClusters& pending, Range wanted, std::uint64_t clusters);
  Task<> place_outside(PendingClusters& pending, Range wanted, std::uint64_t clusters);
  bool is_whole(qcow2::L2Entry entry) const noexcept;
  Task<> refuse_own(std::uint64_t guest, qcow2::L2Entry entry);
  Task<> place_again(PendingClusters& pending, Range wanted, std::uint64_t clusters);
  Task<> place_anew(PendingClusters& pending, std::uint64_t clusters);
  Task<qcow2::Refcounts::Allocation> allocate(std::uint64_t clusters);
  Task<> grow_data_file(std::uint64_t end);

  Task<> zero_clusters(Range range, Zeroing how);
  Task<> zero_slice(Range range, Zeroing how);
  Task<> zero_data_file(Range range, WriteFlags flags);
  qcow2::Subclusters part_of_cluster(std::uint64_t cluster, Range range) const noexcept;
  qcow2::L2Entry zeroed(qcow2::L2Entry entry, qcow2::Subclusters part, Zeroing how) const noexcept;
  Task<> pass_discard(Range cluster, qcow2::L2Entry old, qcow2::L2Entry now);

  Task<std::size_t> compressed(Bytes cluster, MutableBytes out);
  Task<> write_compressed_cluster(std::uint64_t offset, Buffers from);
  Task<> store_compressed(std::uint64_t offset, Bytes compressed);
  Task<> read_compressed_from(qcow2::L2Entry entry, std::uint64_t offset, Buffers into);

  using SnapshotChange = std::function<Task<>(qcow2::NextTables&, qcow2::Header&, qcow2::SnapshotTable&)>;
  Result<> check_new_snapshot(const Qcow2Snapshot& wanted) const;
  Task<> change_snapshots(const SnapshotChange& change, std::uint64_t l1_entries = 0);
  Task<> change_tables(qcow2::NextTables& next, const SnapshotChange& change, std::uint64_t l1_entries);
  Task<> commit_tables(qcow2::NextTables& next, qcow2::Header header);

  using Progress = std::function<void(std::uint64_t done, std::uint64_t total)>;
  Task<> forget_zeroes(Progress progress);
  Task<> write_zeroes_out(Range range);
  Task<> change_refcount_order(std::uint32_t order, Progress progress);
  Task<> convert_refcounts(qcow2::NextTables& next, qcow2::Header header);
  Task<std::uint64_t> preallocate(Range range, Qcow2Preallocation how);
  Result<> check_bitmaps(const std::vector<Qcow2Bitmap>& bitmaps) const;
  Task<AlignedBuffer> bitmap_directory();
  Task<std::vector<std::uint64_t>> bitmap_table(const qcow2::BitmapEntry& entry);
  // Each adds what it takes to `taken`.
  Task<> write_bitmaps(std::vector<Qcow2Bitmap>& bitmaps, std::vector<qcow2::HostRun>& taken);
  Task<> write_bitmap(qcow2::BitmapEntry& entry, const DirtyBitmap& bits, std::vector<qcow2::HostRun>& taken);
  Task<qcow2::HostOffset> write_clusters(Bytes content, std::vector<qcow2::HostRun>& taken);
  Task<> free_bitmap(const qcow2::BitmapEntry& entry);
  Task<> point_at_directory(qcow2::HostOffset at, std::uint64_t length, std::size_t bitmaps);

  Task<> grow(std::uint64_t size);
  Task<> shrink(std::uint64_t size);
  Task<> zero_to_cluster_end(std::uint64_t from, std::uint64_t new_size);

  std::unique_ptr<Edge> file_, data_file_, backing_;
  qcow2::Header header_;
  qcow2::SnapshotTable snapshots_;
  bool read_only_;
  const bool shows_snapshot_, keeps_content_, bitmaps_follow_;
  Qcow2OpenOptions options_;
  bool keeps_discarded_;
  const bool marks_first_;              // but in tests
  bool lazy_;                           // refcounts reach the file when it is closed; the image is dirty until then
  qcow2::DiscardCauses pass_discards_;
  Duration cache_clean_interval_;
  Instant caches_cleaned_;
  qcow2::ImageFile image_;
  qcow2::HeaderWriter header_writer_;
  qcow2::FreeList frees_;
  qcow2::Refcounts refcounts_;
  qcow2::ClusterMap map_;
  qcow2::Committer committer_;
  qcow2::Codecs codecs_;
  RangeLock changing_;                  // guest ranges whose mapping a request is about to change
  Mutex resizing_data_file_, showing_file_;
  bool marked_corrupt_ = false;
  bool file_shown_ = false;              // the tables were read again after a loss
  bool given_up_ = false;                // lose()
};

}  // namespace tidemark
