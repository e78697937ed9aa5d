// Every operation of the engine as blocking system calls.  Any thread.
//
// Signals never end a call early, every descriptor is close-on-exec, and a path with a zero byte in
// it is refused (EINVAL) instead of naming another file.
#pragma once

#include "io/op.hpp"

namespace tidemark::posix {

// The op's result, bytes or -errno.  A transfer of more than 1024 pieces is cut short.
// An `open` leaves the file's InlineClass in op.backend_data[0].
std::int64_t perform_blocking(IoOp& op) noexcept;

// Asks a `connect` that perform_blocking() runs on another thread to give up soon.
void request_cancel(IoOp& op) noexcept;

// One recv or send with these MSG_ flags; never raises SIGPIPE.
std::int64_t transfer(IoOp& op, int flags) noexcept;

// False for a transfer whose offset the kernel would take for "the current position", or worse.
inline bool offset_is_sane(const IoOp& op) noexcept { return op.offset <= max_disk_size; }

inline int descriptor(Handle handle) noexcept { return static_cast<int>(handle); }

}  // namespace tidemark::posix
