#include "tests/contract/block/worlds.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "base/units.hpp"
#include "io/sim/backend.hpp"

namespace tidemark::contract {
namespace {

class SimDiskWorld final : public DiskWorld {
 public:
  SimDiskWorld() { world_.disk().make_directory(directory()); }
  IoBackend& backend() override { return backend_; }
  std::string directory() override { return "/work/area"; }
  Result<std::string> device(std::uint64_t size, std::uint32_t sector) override {
    const std::string path = "/dev/disk" + std::to_string(sector);
    world_.disk().make_device(path, size, sector);
    return path;
  }
  void transfer_whole() override { world_.options().short_file_ppm = 0; }

 private:
  SimWorld world_{2026};
  SimBackend backend_{world_};
};

// A loop device, detached at once and kept by a descriptor: it goes with the process however that
// ends.
class LoopDevice {
 public:
  static Result<LoopDevice> make(const std::string& file, std::uint64_t size,
                                 std::uint32_t sector) {
    if (::geteuid() != 0) return Error(Errc::permission, "loop devices need root");
    const int backing = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const bool sized = backing >= 0 && ::ftruncate(backing, static_cast<off_t>(size)) == 0;
    ::close(backing);
    if (!sized) return Error(Errc::io, "cannot make '" + file + "'");
    const std::string sectors = " --sector-size " + std::to_string(sector);
    LoopDevice loop;
    loop.path_ = output_of("losetup --show -f" + sectors + " " + file);
    loop.keeper_ = ::open(loop.path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (loop.keeper_ < 0) return Error(Errc::unsupported, "no loop device is to be had");
    output_of("losetup -d " + loop.path_);
    return loop;
  }
  LoopDevice(LoopDevice&& o) noexcept
      : path_(std::move(o.path_)), keeper_(std::exchange(o.keeper_, -1)) {}
  LoopDevice& operator=(LoopDevice&&) = delete;
  ~LoopDevice() {
    if (keeper_ >= 0) ::close(keeper_);
  }
  const std::string& path() const { return path_; }

 private:
  LoopDevice() = default;
  static std::string output_of(const std::string& command) {
    std::FILE* pipe = ::popen((command + " 2>/dev/null").c_str(), "re");
    std::string line;
    char buffer[128];
    while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) line.append(buffer, n);
    ::pclose(pipe);
    return line.substr(0, line.find('\n'));
  }
  std::string path_;
  int keeper_ = -1;
};

class HostDiskWorld final : public DiskWorld {
 public:
  explicit HostDiskWorld(const WorldCase& host) : host_(host.make()) {}
  IoBackend& backend() override { return host_->backend(); }
  std::string directory() override { return host_->directory(); }
  Result<std::string> device(std::uint64_t size, std::uint32_t sector) override {
    const std::string file = directory() + "/loop" + std::to_string(loops_.size());
    auto loop = LoopDevice::make(file, size, sector);
    if (!loop) return loop.error();
    loops_.push_back(*std::move(loop));
    return loops_.back().path();
  }

 private:
  std::unique_ptr<World> host_;
  std::vector<LoopDevice> loops_;  // gone before the directory is
};

std::unique_ptr<DiskWorld> make_sim(const WorldCase&) { return std::make_unique<SimDiskWorld>(); }
std::unique_ptr<DiskWorld> make_host(const WorldCase& host) {
  return std::make_unique<HostDiskWorld>(host);
}

}  // namespace

std::vector<DiskWorldCase> disk_worlds() {
  std::vector<DiskWorldCase> all;
  for (const WorldCase& host : worlds()) {
    const bool in_memory = host.name.ends_with("_memory");
    if (host.name == "simulation")
      all.push_back({host.name, make_sim, host, false});
    else
      all.push_back({host.name, make_host, host, in_memory});
  }
  return all;
}

}  // namespace tidemark::contract
