// A file system for tests of power cuts: shows the directory BACKING at MOUNTPOINT and writes down, in
// order, everything that changes it and everything that makes changes durable.
//
//   journal_fs BACKING JOURNAL MOUNTPOINT [GATE]           (absolute paths: FUSE changes to /)
//
// With a GATE, a FIFO, it is a slow one: each sync, once it is written down, takes a byte out of GATE before it is answered, and all
// other requests wait for it.
//
// Invariant: a record is in JOURNAL before its request is answered, and records are in the order in which
// requests took effect (one thread), so what was answered before something else began stands before it.
//
// A record is a line, and after `write` and `durable` (a write by O_DSYNC or RWF_DSYNC) that many bytes:
//   write PATH OFFSET LENGTH | durable PATH OFFSET LENGTH | zero PATH OFFSET LENGTH | size PATH LENGTH | create PATH | unlink PATH |
//   rename PATH PATH | sync PATH | syncdir PATH
// Paths have no spaces.  journal.py reads it.

#define FUSE_USE_VERSION 31
#include <dirent.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

namespace {

struct Journal {
  std::string backing;
  int fd = -1;
  int gate = -1;                                 // none

  std::string path(const char* of) const { return backing + of; }

  // Nothing may be answered that is not written down.
  void record(const std::string& line, const char* data = nullptr, std::size_t size = 0) const {
    std::string bytes = line + '\n';
    if (data) bytes.append(data, size);
    if (::write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size())) return;
    std::perror("journal_fs: journal");
    ::_exit(1);
  }
  int pass() const {
    char byte;
    while (gate >= 0 && ::read(gate, &byte, 1) != 1)
      if (errno != EINTR) return -errno;
    return 0;
  }
};

const Journal& journal() { return *static_cast<Journal*>(fuse_get_context()->private_data); }
int handle(const fuse_file_info* file) { return static_cast<int>(file->fh); }
int outcome(long result) { return result < 0 ? -errno : static_cast<int>(result); }

std::string line(const char* what, const char* path) { return std::string(what) + ' ' + path; }
std::string line(const char* what, const char* path, off_t a) { return line(what, path) + ' ' + std::to_string(a); }
std::string line(const char* what, const char* path, off_t a, off_t b) {
  return line(what, path, a) + ' ' + std::to_string(b);
}

// The size and the content that others gave a file by themselves are seen at once: nothing is cached for long.
void* begin(fuse_conn_info*, fuse_config* config) {
  config->use_ino = 1;
  config->entry_timeout = config->attr_timeout = config->negative_timeout = 0;
  return fuse_get_context()->private_data;
}

int get_attributes(const char* path, struct stat* into, fuse_file_info* file) {
  return outcome(file ? ::fstat(handle(file), into) : ::lstat(journal().path(path).c_str(), into));
}

int read_directory(const char* path, void* into, fuse_fill_dir_t fill, off_t, fuse_file_info*, fuse_readdir_flags) {
  DIR* directory = ::opendir(journal().path(path).c_str());
  if (!directory) return -errno;
  while (const dirent* entry = ::readdir(directory)) fill(into, entry->d_name, nullptr, 0, fuse_fill_dir_flags());
  ::closedir(directory);
  return 0;
}

int file_system(const char* path, struct statvfs* into) {
  return outcome(::statvfs(journal().path(path).c_str(), into));
}

// Written through the page cache of BACKING, which is read by others.
int open_at(const char* path, int flags, mode_t mode, fuse_file_info* file) {
  const int fd = ::open(journal().path(path).c_str(), (flags & ~(O_DIRECT | O_APPEND | O_SYNC)) | O_CLOEXEC, mode);
  if (fd < 0) return -errno;
  file->fh = static_cast<std::uint64_t>(fd);
  return 0;
}

int open_file(const char* path, fuse_file_info* file) {
  const int opened = open_at(path, file->flags, 0, file);
  if (opened == 0 && (file->flags & O_TRUNC) != 0) journal().record(line("size", path, 0));
  return opened;
}

int create_file(const char* path, mode_t mode, fuse_file_info* file) {
  const int opened = open_at(path, file->flags | O_CREAT, mode, file);
  if (opened == 0) journal().record(line("create", path));
  return opened;
}

int read_file(const char*, char* into, std::size_t size, off_t offset, fuse_file_info* file) {
  return outcome(::pread(handle(file), into, size, offset));
}

int write_file(const char* path, const char* from, std::size_t size, off_t offset, fuse_file_info* file) {
  const ssize_t written = ::pwrite(handle(file), from, size, offset);
  if (written < 0) return -errno;
  const char* what = (file->flags & O_DSYNC) != 0 ? "durable" : "write";
  journal().record(line(what, path, offset, written), from, static_cast<std::size_t>(written));
  return static_cast<int>(written);
}

int set_size(const char* path, off_t size, fuse_file_info* file) {
  if ((file ? ::ftruncate(handle(file), size) : ::truncate(journal().path(path).c_str(), size)) != 0) return -errno;
  journal().record(line("size", path, size));
  return 0;
}

int allocate(const char* path, int mode, off_t offset, off_t length, fuse_file_info* file) {
  if (::fallocate(handle(file), mode, offset, length) != 0) return -errno;
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0)
    journal().record(line("zero", path, offset, length));
  struct stat now;
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && ::fstat(handle(file), &now) == 0 && now.st_size == offset + length)
    journal().record(line("size", path, now.st_size));
  return 0;
}

int sync_file(const char* path, int, fuse_file_info*) {
  journal().record(line("sync", path));
  return journal().pass();
}

int sync_directory(const char* path, int, fuse_file_info*) {
  journal().record(line("syncdir", path));
  return journal().pass();
}

int remove_file(const char* path) {
  if (::unlink(journal().path(path).c_str()) != 0) return -errno;
  journal().record(line("unlink", path));
  return 0;
}

int rename_file(const char* from, const char* to, unsigned flags) {
  if (flags != 0) return -EINVAL;
  if (::rename(journal().path(from).c_str(), journal().path(to).c_str()) != 0) return -errno;
  journal().record(line("rename", from) + ' ' + to);
  return 0;
}

int change_mode(const char* path, mode_t mode, fuse_file_info*) {
  return outcome(::chmod(journal().path(path).c_str(), mode));
}

int close_file(const char*, fuse_file_info* file) { return outcome(::close(handle(file))); }

fuse_operations operations() {
  fuse_operations all{};
  all.init = begin;
  all.getattr = get_attributes;
  all.readdir = read_directory;
  all.statfs = file_system;
  all.open = open_file;
  all.create = create_file;
  all.read = read_file;
  all.write = write_file;
  all.truncate = set_size;
  all.fallocate = allocate;
  all.fsync = sync_file;
  all.fsyncdir = sync_directory;
  all.unlink = remove_file;
  all.rename = rename_file;
  all.chmod = change_mode;
  all.release = close_file;
  return all;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: journal_fs BACKING JOURNAL MOUNTPOINT [GATE]\n");
    return 2;
  }
  Journal journal{argv[1], ::open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644)};
  if (journal.fd < 0) {
    std::fprintf(stderr, "journal_fs: '%s': %s\n", argv[2], std::strerror(errno));
    return 1;
  }
  if (argc == 5 && (journal.gate = ::open(argv[4], O_RDWR | O_CLOEXEC)) < 0) {       // open for both it has no end
    std::fprintf(stderr, "journal_fs: '%s': %s\n", argv[4], std::strerror(errno));
    return 1;
  }
  const fuse_operations all = operations();
  char foreground[] = "-f", one_thread[] = "-s", options[] = "-ofsname=journal_fs";
  char* words[] = {argv[0], foreground, one_thread, options, argv[3], nullptr};
  return fuse_main(5, words, &all, &journal);
}
