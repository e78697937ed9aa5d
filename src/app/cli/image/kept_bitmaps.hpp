// KeptBitmaps: the bitmaps of a qcow2 image go on recording while a verb writes to it, as they would in QEMU.
//
//   KeptBitmaps kept = co_await KeptBitmaps::load(reactor, path);
//   ... open the image, kept.attach(node), write, kept.collect(node), close ...
//   co_await kept.store();                 // whether the writing has failed or not
//
// Cut off between, the image says that its bitmaps do not count.
#pragma once

#include "app/cli/image/session.hpp"

namespace tidemark::cli {

class KeptBitmaps {
 public:
  // None, when the file is not qcow2 or holds none.
  static Task<KeptBitmaps> load(Reactor& reactor, std::string path);

  void attach(BlockNode& node) const;
  void collect(BlockNode& node);
  Task<> store();

  // To another image instead, which has none.  One that is inconsistent is an error, or left out.
  Task<> copy_to(std::string path, bool skip_broken);

 private:
  KeptBitmaps(Reactor& reactor, std::string path) : reactor_(&reactor), path_(std::move(path)) {}

  Reactor* reactor_;
  std::string path_;
  std::vector<Qcow2Bitmap> bitmaps_;
};

}  // namespace tidemark::cli
