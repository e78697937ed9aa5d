// NewFile: a file that is made under another name, FILE.tidemark-partial, and gets its own when it is whole and
// durable; what had that name before is then gone, and its owner and mode are the new one's.  Whatever ends the program
// before leaves the old file as it was.
//
// Invariant: only what was there at the beginning is replaced; what has come meanwhile, by either name, is somebody else's, and stays.
// Of several who make the same file one does, and the others leave nothing.
#pragma once

#include <memory>
#include <string>

#include "app/images.hpp"
#include "storage/file.hpp"

namespace tidemark {

class NewFile {
 public:
  // Errors when what is there cannot be replaced: another program has it open, or it is no regular file.
  static Task<NewFile> begin(Reactor& reactor, std::string path);
  // What is there is held until let_go().
  static Task<NewFile> begin_held(Reactor& reactor, std::string path);
  // It replaces nothing, also not what came after the caller has looked.
  static NewFile begin_new(Reactor& reactor, std::string path) { return NewFile(reactor, std::move(path), false); }

  const std::string& partial() const noexcept { return partial_; }
  // Empty; what a run that was killed has left goes.  Errc::busy when another makes the same file; nobody else does until let_go().
  Task<> make_partial();
  // The file is closed.  Nobody uses it as an image from here on, until let_go(); Errc::busy when somebody does, or has replaced it.
  Task<> hold();
  // What was written to it is durable; it is held, else this does it.
  Task<> publish();
  // What was made, and nobody uses, goes, from under its own name, too; but what was there before does not come back.  Before
  // let_go(), which it does, or another may be making it by then.
  Task<> discard();
  Task<> let_go();                       // of all that is held; before this goes

 private:
  NewFile(Reactor& reactor, std::string path, bool replaces)
      : reactor_(&reactor), path_(std::move(path)), partial_(path_ + ".tidemark-partial"), replaces_(replaces) {}
  Task<> let_go_of_images();

  Reactor* reactor_;
  std::string path_, partial_;
  bool replaces_;
  CreatedFile created_;                  // nothing, until it is
  File maker_;
  std::shared_ptr<HeldFile> held_, made_;  // what it replaces; itself
};

// Makes a file by `make(partial name)`, which fills it and closes it, and publishes it; what fails leaves nothing.
template <class Make>
Task<> make_file(NewFile file, Make make) {
  Result<> made = co_await file.make_partial().result();
  if (made) made = co_await make(file.partial()).result();
  if (made) made = co_await file.publish().result();
  if (!made) (void)co_await file.discard().result();
  (void)co_await file.let_go().result();
  co_await unwrap(made);
}

template <class Make>
Task<> make_file(Reactor& reactor, std::string path, Make make) {
  NewFile file = co_await NewFile::begin_held(reactor, std::move(path));
  co_await make_file(std::move(file), std::move(make));
}

}  // namespace tidemark
