#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "io/posix/calls.hpp"

namespace tidemark::posix {

namespace {

// Where the file system has no flag for it (NFS, 9p).  link() does not replace either; of a directory, which has one name only, rename()
// replaces an empty one at most, and that only when it has come at this moment.
std::int64_t rename_without_flag(const char* from, const char* to) noexcept {
  struct stat info;
  if (::lstat(from, &info) != 0) return -errno;
  if (!S_ISDIR(info.st_mode)) {
    const std::int64_t linked = retried([&] { return ::link(from, to); });
    return linked < 0 ? linked : retried([&] { return ::unlink(from); });
  }
  if (::lstat(to, &info) == 0) return -EEXIST;
  if (errno != ENOENT) return -errno;
  const std::int64_t result = retried([&] { return ::rename(from, to); });
  return result == -ENOTEMPTY || result == -ENOTDIR ? -EEXIST : result;
}

}  // namespace

std::int64_t rename_path(IoOp& op) noexcept {
  const char* from = op.extra->path.c_str();
  const char* to = op.extra->path2.c_str();
  if (!op.no_replace) return retried([&] { return ::rename(from, to); });
  const std::int64_t result =
      retried([&] { return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE); });
  return result == -EINVAL || result == -ENOSYS ? rename_without_flag(from, to) : result;
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
