// ImageAhead: an image that an action of a transaction is about to use, made and opened while guests go on: they do not wait for the
// file system that it is on.
//
// Invariants: what take() gives is what would be made and opened then: where that is something else than was wanted ahead, it is
// made and opened again.  A file that holds something is not touched ahead.  Undone, one that was empty is so again (somebody may have
// made it, to say whose it is), and one that was not there is gone.
#pragma once

#include "control/graph/homes.hpp"
#include "control/snapshots/overlay_nodes.hpp"
#include "job/chain/chain_names.hpp"
#include "storage/file.hpp"

namespace tidemark {

struct ImageWanted {
  Place* place = nullptr;
  std::string path, format;
  bool is_new = true;                              // else it is opened as it is, and the next two say nothing
  std::uint64_t size = 0;
  BackingName below;
  std::optional<OverlayLike> overlay;              // opened as one; else as the target of a job
  bool operator==(const ImageWanted&) const = default;
};

// On the main thread.
class ImageAhead {
 public:
  explicit ImageAhead(Homes& homes) : homes_(homes) {}
  ImageAhead(const ImageAhead&) = delete;
  ~ImageAhead() { TM_ASSERT(!kept_); }             // handed over or undone

  // What fails here is told by take().
  Task<> make(ImageWanted wanted);
  // Null before it is there.
  BlockNode* node() const noexcept { return node_; }
  // It stays until hand_over() or undo().
  Task<BlockNode*> take(ImageWanted wanted);
  // It is used now.
  Task<> hand_over();
  // Nobody uses it any more; nothing when it was handed over.
  Task<> undo();

 private:
  Task<> make_file(const ImageWanted& wanted);
  Task<> open();
  Task<> let_go();

  Homes& homes_;
  std::optional<ImageWanted> wanted_;              // what is there, or has failed
  Result<> made_;
  std::optional<CreatedFile> created_;             // what undo() takes back
  BlockNode* node_ = nullptr;
  std::unique_ptr<Edge> kept_;
};

}  // namespace tidemark
