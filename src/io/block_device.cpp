#include "io/block_device.hpp"

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace tidemark {
namespace {

std::optional<LoopFile> ask(const std::string& path) {
  const int device = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  if (device < 0) return std::nullopt;
  struct loop_info64 told = {};
  const bool is_loop = ::ioctl(device, LOOP_GET_STATUS64, &told) == 0;
  (void)::close(device);
  if (!is_loop) return std::nullopt;
  return LoopFile{told.lo_device, told.lo_inode};
}

}  // namespace

std::optional<DeviceNumber> number_of_device(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) return std::nullopt;
  return DeviceNumber{major(info.st_rdev), minor(info.st_rdev)};
}

Task<std::optional<LoopFile>> file_of_loop_device(Reactor& reactor, std::string path) {
  std::optional<LoopFile> found;
  const auto look = [&] { found = ask(path); };
  co_await reactor.offload(look);
  co_return found;
}

}  // namespace tidemark
