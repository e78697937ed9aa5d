// Images of a backup directory, opened and made in this process.
//
// This is the gate of backup chains: which files are opened is decided by the directory's manifests; the names
// inside the images are only compared with them.
#pragma once

#include <memory>
#include <string>

#include "backup/directory.hpp"
#include "block/graph.hpp"
#include "storage/file.hpp"

namespace tidemark {

// The image of one disk at one point, with all it builds on, open for reading.
class PointImage {
 public:
  // `layers` newest first (BackupDirectory::chain), or the files of a point under way before them.
  static Task<std::unique_ptr<PointImage>> open(Reactor& reactor, std::vector<std::string> layers);
  ~PointImage();

  Edge& disk() noexcept { return *disk_; }
  Task<> close();

 private:
  explicit PointImage(Reactor& reactor) : graph_(reactor) {}
  Task<> open_layers(std::vector<std::string> layers);
  Graph graph_;
  std::unique_ptr<Edge> disk_;
};

// The files of `disk` in a chain, newest first.
std::vector<std::string> image_paths(const BackupDirectory& directory, const std::vector<const PointManifest*>& chain,
                                     std::string_view disk);

// Whether what a point builds on is there: the images open, and the checksums are those of the manifests.
Task<> check_chain(Reactor& reactor, const BackupDirectory& directory, std::vector<const PointManifest*> chain, std::string disk);

// An image of the kind that backup directories hold: qcow2, 64 KiB clusters; `backing` as it is written into it.
Task<> create_point_image(Reactor& reactor, std::string path, std::uint64_t size, std::string backing);

// A symbolic link stays: what it points at is made or replaced.
std::string behind_links(std::string name);

// A file that is about to be replaced, or to get its name, held so that no program begins to use it as an image meanwhile.
class HeldFile {
 public:
  // Fails unless the file is a regular one that no running program has open as an image.
  static Task<std::unique_ptr<HeldFile>> take(Reactor& reactor, std::string path);
  // What was made under another name, and is closed, while it gets its own: nobody else who makes the same file removes it
  // meanwhile and lays another there.  Errc::busy when one has.
  static Task<std::unique_ptr<HeldFile>> take_made(Reactor& reactor, CreatedFile made);
  ~HeldFile();
  Task<> release();                  // before it goes

 private:
  explicit HeldFile(Reactor& reactor) : graph_(reactor) {}
  Task<> take_now(std::string path);
  Graph graph_;
  std::unique_ptr<Edge> file_;
};

// The same for a moment.
Task<> check_replaceable(Reactor& reactor, std::string path);

// A new image to restore into, reading as zeroes, not yet under its own name.  publish() gives it the name, and the owner
// and mode of what it replaces.  What another program lays under the other name meanwhile is neither published nor removed; what it lays
// under its own, where nothing was at the beginning, is not replaced.
class RestoreTarget {
 public:
  static Task<std::unique_ptr<RestoreTarget>> create(Reactor& reactor, std::string path, std::string format,
                                                     std::uint64_t size, bool replace);
  ~RestoreTarget();

  Edge& disk() noexcept { return *disk_; }
  Task<> publish();                  // flushed, closed, renamed; durable
  Task<> discard();                  // nothing is left

 private:
  RestoreTarget(Reactor& reactor, std::string path, bool replaces)
      : reactor_(reactor), graph_(reactor), path_(std::move(path)), replaces_(replaces) {}
  Task<> create_now(std::string format, std::uint64_t size);
  Task<> close();
  Task<> release();
  std::string partial_path() const { return path_ + ".tidemark-partial"; }

  Reactor& reactor_;
  Graph graph_;
  std::string path_;
  bool replaces_;                        // what was there at the beginning
  std::unique_ptr<HeldFile> replaced_, made_;
  CreatedFile created_;                  // nothing, until it is
  File maker_;
  std::unique_ptr<Edge> disk_;
};

}  // namespace tidemark
