#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "io/posix/calls.hpp"

namespace tidemark::posix {

std::int64_t rename_path(IoOp& op) noexcept {
  const char* from = op.extra->path.c_str();
  const char* to = op.extra->path2.c_str();
  if (!op.no_replace) return retried([&] { return ::rename(from, to); });
  const std::int64_t result =
      retried([&] { return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE); });
  if (result != -EINVAL && result != -ENOSYS) return result;
  // A file system without the flag (NFS): link() does not replace either.
  const std::int64_t linked = retried([&] { return ::link(from, to); });
  return linked < 0 ? linked : retried([&] { return ::unlink(from); });
}

std::int64_t list_directory(IoOp& op) noexcept {
  struct Close {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };
  const std::unique_ptr<DIR, Close> directory(::opendir(op.extra->path.c_str()));
  if (!directory) return -errno;
  auto& names = op.extra->names;
  names.clear();
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());
    if (!entry) return -errno;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
}

std::int64_t sync_directory(IoOp& op) noexcept {
  const char* path = op.extra->path.c_str();
  const std::int64_t fd =
      retried([&] { return ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (fd < 0) return fd;
  const std::int64_t result = retried([&] { return ::fsync(static_cast<int>(fd)); });
  ::close(static_cast<int>(fd));
  return result;
}

}  // namespace tidemark::posix
