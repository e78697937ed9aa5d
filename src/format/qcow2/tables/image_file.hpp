// ImageFile: the file below, as the parts of the driver use it: reads and writes by host offset,
// growth, which clusters hold metadata, and whether the image has been found corrupt, or its storage has lost what was
// written.  It also knows where the guest's data is: here, or in an external data file.
//
// Invariants: nothing is read or written beyond size(), except that the rest of a cluster cut short
// by the end of the file reads as zeroes.  What lies at fresh() or beyond reads as zeroes: the file
// was grown there since it was opened, and nothing was written yet.  Once the storage has lost something, nothing is
// written here any more: the file stays as of its last good flush, where what its tables point at is there.
#pragma once

#include "bitmap/dirty_bitmap.hpp"
#include "block/node.hpp"
#include "format/qcow2/layout/overlap.hpp"
#include "format/qcow2/layout/types.hpp"
#include "format/qcow2/layout/write_order.hpp"

namespace tidemark::qcow2 {

class ImageFile {
 public:
  ImageFile(Edge& file, const Geometry& geometry)
      : file_(file), geometry_(geometry), fresh_(offset_limit),
        used_end_(align_up(file.size(), geometry.cluster_size())),
        metadata_(offset_limit, geometry.cluster_size()) {
    watch();
  }
  ImageFile(const ImageFile&) = delete;

  const Geometry& geometry() const noexcept { return geometry_; }
  // Of an image whose version or refcounts were changed.
  void set_geometry(const Geometry& geometry) noexcept { geometry_ = geometry; }
  std::uint64_t size() const noexcept { return file_.size(); }
  Edge& edge() const noexcept { return file_; }
  void set_data_file(Edge* data) noexcept {
    (void)loss();
    data_file_ = data;
    counted_ = losses();
  }
  Edge& data() const noexcept { return data_file_ ? *data_file_ : file_; }

  // What is about to be done with it.
  void tell(DebugEvent event) { file_.tell(event); }
  Task<> read(HostOffset at, Buffers into);
  Task<> write(HostOffset at, Buffers from);
  Task<> write_zeroes(Range range);
  Task<> discard(Range range);
  // Guest data first: what a table will point at.
  Task<> flush();

  // A file that ends within a cluster is made to end with it.
  Task<> complete_last_cluster();
  // Grows the file to hold `end`, and a stretch more, so that growing is rare.
  Task<> grow(std::uint64_t end);
  // Gives that stretch back; at close.
  Task<> trim();
  // The end of what was in the file when it was opened, or has been handed out since.
  std::uint64_t used_end() const noexcept { return used_end_; }
  // The run is handed to a writer: says whether it reads as zeroes.
  bool take(HostRun run) noexcept;

  // Outside of the Committer's rounds, bytes of this stage were written: a sync is owed before what
  // they must precede.
  void wrote(Stage stage) noexcept { unsynced_ |= bit(stage); }
  StageSet& unsynced() noexcept { return unsynced_; }

  // Metadata clusters: never handed out as data, never written through a guest's mapping.
  void add_metadata(HostRun run, Metadata kind) noexcept {
    if (has(checks_, kind)) metadata_.set(geometry_.bytes_of(run));
  }
  // The same for what an image that is opened says; an error when it is something else already.
  Result<> claim_metadata(HostRun run, Metadata kind);
  // Which kinds are looked after.
  void set_overlap_checks(OverlapChecks checks) noexcept { checks_ = checks; }
  OverlapChecks overlap_checks() const noexcept { return checks_; }
  void remove_metadata(HostRun run) noexcept { metadata_.clear(geometry_.bytes_of(run)); }
  void forget_metadata() noexcept { metadata_.clear({0, offset_limit}); }
  bool is_metadata(Range host) const noexcept {
    return metadata_.next_dirty_area(host.offset, host.end()).has_value();
  }

  // That the storage may have dropped, by a flush that failed, anything that was written since the last one: remembered
  // until the image is opened anew, whatever the next flush says.  What was copied on write, and tables that were written
  // back, were nobody's to write again.  Asked at every request.
  const std::optional<Error>& loss() noexcept {
    if (!loss_ && (owner_ != file_.parent() || counted_ != losses())) look(nullptr, file_);
    return loss_;
  }
  Result<> intact();                     // that error, when there is one
  void watch() noexcept;                 // from now on: what is in the file is what the tables in memory say
  void lose(Error loss) { loss_ = std::move(loss); }
  // Of how it was used: what is in the file is all that is known.
  void forget_use() noexcept;

  // An error about the image's content: remembered, and writes are refused from then on.
  Error corrupt(std::string what);
  const std::optional<Error>& corruption() const noexcept { return corruption_; }

 private:
  std::uint64_t losses() const noexcept { return owner_ ? owner_->losses() : losses_below(); }
  std::uint64_t losses_below() const noexcept;
  void look(const Error* why, const Edge& storage);

  Edge& file_;
  Edge* data_file_ = nullptr;
  Geometry geometry_;
  std::uint64_t fresh_;                  // host offset
  std::uint64_t used_end_;               // the end of what was there or handed out
  StageSet unsynced_ = 0;
  OverlapChecks checks_ = cached_overlap_checks;
  DirtyBitmap metadata_;
  std::optional<Error> corruption_;
  std::optional<Error> loss_;
  const BlockNode* owner_ = nullptr;     // the image's node, which counts what all of its storage loses, whatever filters come below
  std::uint64_t counted_ = 0;            // losses() when it was looked at
};

}  // namespace tidemark::qcow2
