// KeptBitmaps: the bitmaps of a qcow2 image go on recording while a verb writes to it, as they would in QEMU.
//
//   ... open the image, with ImageAccess::keeps_content ...
//   KeptBitmaps kept = co_await KeptBitmaps::take(context, image, node);
//   ... write ...
//   stored = co_await kept.put_back(node).result();      // whether the writing has failed or not
//   ... close, which gives the image to others ...
//   stored = co_await kept.finish(std::move(stored)).result();
//
// Cut off between, the image says that its bitmaps do not count.  Invariant: they never count without a mark of what anybody wrote.
#pragma once

#include "app/cli/context.hpp"
#include "app/cli/image/session.hpp"

namespace tidemark::cli {

class KeptBitmaps {
 public:
  // None, when the image, by its format, is not qcow2, or holds none.
  static Task<KeptBitmaps> load(const Context& context, ImageName image, bool force_share = false);

  // The same of one that is open to be written; they do not count from here on, and record.
  static Task<KeptBitmaps> take(const Context& context, ImageName image, BlockNode& node);
  Task<> put_back(BlockNode& node);
  // What they took before is given back; where there was no room for them, there is then: they are stored all the same, wholly
  // dirty, for others may have written since the image was closed.
  Task<> finish(Result<> put_back);

  // Into an image that nobody else knows of yet.
  Task<> store();

  // Whether all could be copied: one that is inconsistent cannot.
  Result<> check_consistent() const;
  // Those of another image, too, to be stored.  One that is inconsistent is an error, or left out; so is a name that
  // is taken, or another size of disk.
  Result<> check_room_for(const KeptBitmaps& others, bool skip_broken) const;
  Result<> add(KeptBitmaps others, bool skip_broken);

 private:
  KeptBitmaps(const Context& context, ImageName image) : context_(&context), image_(std::move(image)) {}
  bool empty() const noexcept { return bitmaps_.empty(); }
  void attach(BlockNode& node) const;
  void collect(BlockNode& node);
  Task<> read(Session& session, bool force_share);
  Task<> read_from(Qcow2Driver& image);
  void complete(const Qcow2Driver& image);

  const Context* context_;
  ImageName image_;
  bool can_hold_ = false;
  std::uint64_t disk_size_ = 0;
  std::vector<Qcow2Bitmap> bitmaps_;
};

}  // namespace tidemark::cli
