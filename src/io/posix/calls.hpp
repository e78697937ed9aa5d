// What perform_blocking() is made of; private to this folder.  Each returns bytes, a descriptor or
// 0, or -errno.
#pragma once

#include <cerrno>

#include "io/posix/perform.hpp"

namespace tidemark::posix {

// Calls until no signal interrupts; -1 becomes -errno.
template <class F>
std::int64_t retried(F&& call) noexcept {
  for (;;) {
    const std::int64_t result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

// files.cpp
std::int64_t read_file(IoOp& op) noexcept;
std::int64_t write_file(IoOp& op) noexcept;
std::int64_t allocate_file(IoOp& op) noexcept;
std::int64_t find_extent(IoOp& op) noexcept;
std::int64_t open_file(IoOp& op) noexcept;
std::int64_t lock_file(IoOp& op) noexcept;

// stat.cpp
std::int64_t stat_file(IoOp& op) noexcept;

// names.cpp
std::int64_t rename_path(IoOp& op) noexcept;
std::int64_t list_directory(IoOp& op) noexcept;
std::int64_t sync_directory(IoOp& op) noexcept;

// sockets.cpp
std::int64_t accept_socket(IoOp& op) noexcept;
std::int64_t connect_socket(IoOp& op) noexcept;
std::int64_t listen_socket(IoOp& op) noexcept;

}  // namespace tidemark::posix
