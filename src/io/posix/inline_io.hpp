// InlineIo: operations done at once, on the reactor's thread, because they do not wait: reads that
// the page cache answers (RWF_NOWAIT), sockets that have bytes or room, files in memory but for large
// writes, which are work for another processor.
//
// Small writes to the page cache, too: ext4 has no RWF_NOWAIT for them, yet handing one to a thread
// costs ten times the write.  They hardly ever wait (dirty page limits, a journal commit); a file
// whose write did so leaves them to the threads for a thousand times as long, so that this takes at
// most a thousandth of the reactor's time.
//
// It remembers what each descriptor refuses.  A file that it did not see opened is asked first.
#pragma once

#include <vector>

#include "io/backend.hpp"

namespace tidemark::posix {

enum class InlineClass : std::uint8_t {
  unknown,
  cached,                               // a file through the page cache: try without waiting
  device,                               // a block device through it: the same
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

  // The thread has waited for events since it last wrote.
  void has_slept() noexcept { sleeps_known_ = false; }

  // What is known of a descriptor.
  // Its writes cost the processor, and a ring would have them done on this thread.
  bool is_buffered(Handle handle) const noexcept {
    return is_file(handle) && kind(handle) != InlineClass::never;
  }
  // The kernel lets in one writer at a time.
  bool takes_turns(const IoOp& op) const noexcept {
    const InlineClass known = kind(op.handle);
    return op.kind == IoOp::Kind::write && !op.durable &&
           (known == InlineClass::cached || known == InlineClass::memory);
  }
  bool is_file(Handle handle) const noexcept { return kind(handle) != InlineClass::unknown; }

  // As IoBackend::forget() and learn().
  std::uint64_t forget(Handle handle) noexcept;
  void learn(Handle handle, std::uint64_t known) noexcept { file(handle).kind = static_cast<InlineClass>(known); }

  // For each op that has completed otherwise: learns from what opened and what closed.
  void completed(const IoOp& op) {
    if (op.kind == IoOp::Kind::open && op.result >= 0) opened(op);
    else if (op.kind == IoOp::Kind::close) (void)forget(op.handle);
  }

 private:
  struct File {
    InlineClass kind = InlineClass::unknown;
    bool reads = true, writes = true;   // RWF_NOWAIT was not refused so far
    Instant quick_from{};               // writes are left to the threads until then
  };
  void opened(const IoOp& op);
  File& file(Handle handle);
  InlineClass kind(Handle handle) const noexcept {
    const auto at = static_cast<std::size_t>(handle);
    return at < files_.size() ? files_[at].kind : InlineClass::unknown;
  }
  bool try_file(IoOp& op);
  bool try_memory(IoOp& op) noexcept;
  bool try_without_waiting(IoOp& op, bool& allowed) noexcept;
  bool try_quick_write(IoOp& op, File& file) noexcept;

  std::vector<File> files_;             // by descriptor
  bool sleeps_known_ = false;
  long sleeps_ = 0;                     // times this thread has slept in the kernel
};

}  // namespace tidemark::posix
