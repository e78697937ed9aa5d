// IoOp: one operation on the outside world.  It lives in the frame of the coroutine that awaits it
// and is handed to the backend by address until it completes.
//
//   kind        uses                                        result (or -errno)
//   read        handle, offset, buffers                     bytes; 0 at the end of the file
//   write       handle, offset, buffers, durable            bytes
//   sync        handle                                      0; data and size durable (fdatasync)
//   allocate    handle, offset, length, allocate            0
//   extent      handle, offset                              0; extent
//   truncate    handle, length                              0
//   recv, send  handle, buffers                             bytes; recv 0 at the end of the stream
//   accept      handle                                      handle of the connection
//   connect     address                                     handle
//   listen      address                                     handle; address.port 0 is filled in
//   shutdown    handle                                      0; both directions, wakes blocked peers
//   open        path, open                                  handle
//   close       handle                                      0
//   stat        path or (path empty) handle                 0; info
//   lock        handle, lock                                0; -EAGAIN when another holds it
//   rename      path, path2, flag no_replace                0
//   link, unlink, mkdir, rmdir, list, sync_dir              0; list fills names
//   write_back  handle, flag drop                           0; what was written is on its way to the device, not waited for;
//                                                           drop: what is there already leaves the page cache
//   work        work                                        0; runs on a worker thread (a simulation: here)
#pragma once

#include <coroutine>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/units.hpp"
#include "io/buffers.hpp"

namespace tidemark {

// An open file or socket: a file descriptor, or a simulation's number.
enum class Handle : std::int32_t { none = -1 };

struct SocketAddress {
  enum class Kind : std::uint8_t { unix_path, inet } kind = Kind::unix_path;
  std::string path;                 // unix_path
  std::string host, port;           // inet; numeric or a name
  std::string describe() const;     // "/run/a.sock", "127.0.0.1:10809", "[::1]:10809"
};

struct OpenFlags {
  bool write = false;
  bool create = false;              // with mode 0600 less umask
  bool exclusive = false;           // with create: fail when it exists
  bool truncate = false;
  bool direct = false;              // O_DIRECT
  bool directory = false;
  bool no_follow = false;           // fail where the last part of the path is a symbolic link (ELOOP)
  bool temporary = false;           // path names a directory; an unlinked file in it (O_TMPFILE)
};

enum class AllocateMode : std::uint8_t {
  punch_hole,                       // deallocate, reads as zeroes; size kept
  discard,                          // a device is told that nobody needs it; what it reads as is not known
  zero_range,                       // reads as zeroes, may stay allocated
  preallocate,                      // allocate without changing content; grows the file
};

struct FileInfo {
  enum class Type : std::uint8_t { regular, block_device, directory, other } type = Type::regular;
  std::uint64_t size = 0;           // bytes; a block device's capacity
  std::uint64_t allocated = 0;      // bytes that occupy space
  std::uint32_t logical_block = 512;    // what direct I/O must be aligned to (offset and length)
  std::uint32_t memory_align = 512;     // what direct I/O's memory must be aligned to
  std::uint64_t device = 0, inode = 0;
  std::int64_t change_time_ns = 0;
  std::int64_t birth_time_ns = 0;       // 0: not known
  bool read_only = false;           // a block device set read-only
  std::uint32_t device_major = 0, device_minor = 0;       // of a block device
};

// A run of data or hole in a file, from the offset asked for.
struct FileExtent {
  bool data = true;
  std::uint64_t length = 0;         // 0 at or beyond the end of the file
};

// Byte-range locks on open file descriptions, as QEMU's image locking uses them.
struct LockRequest {
  enum class Mode : std::uint8_t { unlock, shared, exclusive, test_exclusive } mode = Mode::unlock;
  std::uint64_t offset = 0, length = 0;
};

struct IoOp {
  enum class Kind : std::uint8_t {
    read, write, sync, allocate, extent, truncate,
    recv, send, accept, connect, listen, shutdown,
    open, close, stat, lock, rename, link, unlink, mkdir, rmdir, list, sync_dir, write_back,
    work,
  };

  explicit IoOp(Kind k, Handle h = Handle::none) : kind(k), handle(h) {}
  IoOp(const IoOp&) = delete;

  Kind kind;
  bool durable = false;                          // write: on stable storage when it completes
  bool no_replace = false;                       // rename
  bool aside = false;                            // send: much to copy; another processor may do it
  bool drop = false;                             // write_back
  enum class State : std::uint8_t { idle, deferred, submitted, completed } state = State::idle;
  AllocateMode allocate = AllocateMode::punch_hole;
  Handle handle;
  std::uint64_t offset = 0, length = 0;
  Buffers buffers;

  std::int64_t result = 0;
  std::coroutine_handle<> waiter;
  IoOp* next = nullptr;                          // the backend's while submitted
  std::uint64_t backend_data[2] = {0, 0};        // the backend's

  struct Extra {                                 // of the rare kinds
    std::string path, path2;
    OpenFlags open;
    SocketAddress address;
    LockRequest lock;
    FileInfo info;
    FileExtent extent;
    std::vector<std::string> names;
    std::function<void()> work;
  };
  Extra* extra = nullptr;                        // set for kinds from `extent` on that use it
};

}  // namespace tidemark
