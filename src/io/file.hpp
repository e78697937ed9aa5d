// File: an open file or block device on a reactor.  Whole transfers: a short read before the end of
// the file or a short write is continued; what a read asks for beyond the end reads as zeroes.
//
// close() is awaited before the File goes (asserted), on every path.
#pragma once

#include "io/page_cache.hpp"
#include "io/reactor.hpp"

namespace tidemark {

class File {
 public:
  static Task<File> open(Reactor& reactor, std::string path, OpenFlags flags);

  File() = default;
  File(File&& o) noexcept;
  File& operator=(File&& o) noexcept;
  ~File();

  bool is_open() const noexcept { return handle_ != Handle::none; }
  const std::string& path() const noexcept { return path_; }
  void renamed(std::string path) { path_ = std::move(path); }     // it has another name by now
  Reactor& reactor() const noexcept { return *reactor_; }
  Handle handle() const noexcept { return handle_; }

  // The first bytes, as many as are `there`, are an error where the file has ended by now, and no zeroes.
  Task<> read(std::uint64_t offset, Buffers into, std::uint64_t there = 0);
  Task<> write(std::uint64_t offset, Buffers from, bool durable = false);
  Task<> sync();
  Task<> write_back(PageCache after);             // begins to make durable what was written, and does not wait for it
  Task<> allocate(AllocateMode mode, Range range);
  Task<FileExtent> extent(std::uint64_t offset);
  Task<> truncate(std::uint64_t size);
  Task<FileInfo> stat();
  Task<> lock(LockRequest request);               // Errc::busy when another holds it
  Task<> close();

  // To another reactor, while nothing is in flight: first on this one's thread, then on the other's.
  void leave() noexcept { known_ = reactor_->backend().forget(handle_); }
  void arrive(Reactor& reactor) noexcept {
    reactor_ = &reactor;
    reactor_->backend().learn(handle_, known_);
  }

 private:
  Error ends_at(std::uint64_t offset) const;
  Error failed(std::string_view verb, std::int64_t result) const;   // "read 'a.img': Input/output error"
  Reactor* reactor_ = nullptr;
  Handle handle_ = Handle::none;
  bool direct_ = false;
  std::uint64_t known_ = 0;                       // to the backend, while on the way to another
  std::string path_;
};

// Operations on names.  Errors read "verb 'path': reason".
namespace fs {
Task<FileInfo> stat(Reactor& reactor, std::string path);
Task<bool> exists(Reactor& reactor, std::string path);
Task<> rename(Reactor& reactor, std::string from, std::string to, bool no_replace = false);
Task<> unlink(Reactor& reactor, std::string path);
Task<> mkdir(Reactor& reactor, std::string path);
Task<> rmdir(Reactor& reactor, std::string path);
Task<std::vector<std::string>> list(Reactor& reactor, std::string path);    // sorted, without . and ..
Task<> sync_dir(Reactor& reactor, std::string path);                        // makes renames in it durable
Task<std::string> read_all(Reactor& reactor, std::string path, std::uint64_t size_max);
// Written beside, synced, renamed over: the old content or the new, never a mix.  Durable.
Task<> replace(Reactor& reactor, std::string path, std::string content);
}  // namespace fs

}  // namespace tidemark
