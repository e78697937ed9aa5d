// StoreFile: the file of a tracking store: its lock, its roots, its bytes.  Knows no bitmaps.
//
// Invariant: while it is open this process alone has it, and `path` names it, unless it was unlinked.
#pragma once

#include <memory>

#include "io/aligned.hpp"
#include "io/file.hpp"
#include "tracking/catalogue.hpp"
#include "tracking/superblock.hpp"

namespace tidemark::tracking {

class StoreFile {
 public:
  // What a process had under way when it was killed holds its lock until it has ended.
  static constexpr Duration lock_patience = std::chrono::seconds(2);

  StoreFile() = default;
  // Locked; shared with other readers to be read, and then not waited for.  Errc::not_found when there is none, unless
  // it is to be made.  Errc::busy when another has it.
  enum class Use : std::uint8_t { look, read, write, make };      // look: whoever has it
  enum class Links : std::uint8_t { follow, refuse };             // symbolic ones, of a name that no user has given
  Task<> open(Reactor& reactor, std::string path, Use use, Links links = Links::follow);
  // Of one that is looked at: nobody writes to it from here on.  False: somebody has it.
  Task<bool> try_share();
  Task<> close();
  File& file() noexcept { return file_; }
  const std::string& path() const noexcept { return path_; }

  // Whether it is a store, or what is left of one, or of one with such a log that was being made.
  Task<bool> looks_ours(std::uint64_t log_bytes);
  // Of one that is to be made: Errc::exists for the image, and for anything but what looks so.
  Task<> check_ours(const Superblock& to_be);

  // The root that counts; nothing where neither copy is one.
  Task<std::optional<Superblock>> read_root();
  // Both copies, that which may be no root, or an older one, first.  `durable`: on stable storage, one before the other is begun.
  Task<> write_root(const Superblock& root, bool durable);
  // No root, but known for a store, and an empty log, all of it written and durable, its name too.
  Task<> format(std::uint64_t log_bytes);
  Task<Catalogue> read_catalogue(const Superblock& root);
  Task<AlignedBuffer> read(Range range);
  // The file goes, and with it the promise of its marks.
  Task<> unlink();

 private:
  Task<> open_locked(Reactor& reactor, Use use, Links links);
  Task<FileInfo> check_regular(Task<FileInfo> stat);
  Task<bool> named(Reactor& reactor);
  std::string directory() const;

  std::string path_;
  File file_;
  std::uint64_t next_copy_ = 0;          // the other one is the root that counts
};

}  // namespace tidemark::tracking
