// InlineIo: operations that can be done at once, on the reactor's thread, because they cannot wait:
// reads that the page cache answers (RWF_NOWAIT), sockets that have bytes or room, files in memory.
//
// It remembers what each descriptor refuses.  A file that it did not see opened is asked first.
#pragma once

#include <vector>

#include "io/op.hpp"

namespace tidemark::posix {

enum class InlineClass : std::uint8_t {
  unknown,
  cached,                               // through the page cache: try without waiting
  memory,                               // no storage behind it (tmpfs): nothing to wait for
  never,                                // direct I/O waits for the device
};

// Left in backend_data[0] of a recv or send that was tried and would have to wait.
inline constexpr std::uint64_t would_wait = 1;

// Of a file just opened; may wait for a network file system.
InlineClass classify(int fd, bool direct) noexcept;

class InlineIo {
 public:
  // As IoBackend::try_now.
  bool try_now(IoOp& op) noexcept;

  // What is known of a descriptor.
  bool is_cached(Handle handle) const noexcept { return kind(handle) == InlineClass::cached; }
  bool is_memory(Handle handle) const noexcept { return kind(handle) == InlineClass::memory; }
  bool is_file(Handle handle) const noexcept { return kind(handle) != InlineClass::unknown; }

  // For each op that has completed otherwise: learns from what opened and what closed.
  void completed(const IoOp& op) {
    if (op.kind == IoOp::Kind::open && op.result >= 0) opened(op);
    else if (op.kind == IoOp::Kind::close) forget(op.handle);
  }

 private:
  struct File {
    InlineClass kind = InlineClass::unknown;
    bool reads = true, writes = true;   // not refused so far
  };
  void opened(const IoOp& op);
  void forget(Handle handle) noexcept;
  File& file(Handle handle);
  InlineClass kind(Handle handle) const noexcept {
    const auto at = static_cast<std::size_t>(handle);
    return at < files_.size() ? files_[at].kind : InlineClass::unknown;
  }
  bool try_file(IoOp& op);

  std::vector<File> files_;             // by descriptor
};

}  // namespace tidemark::posix
