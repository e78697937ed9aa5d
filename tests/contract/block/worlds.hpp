// Where the contract of block drivers is run: a backend, a directory, and block devices where the
// machine has them.  On the host those are loop devices, which only root can make.
#pragma once

#include "tests/contract/io/worlds.hpp"

namespace tidemark::contract {

class DiskWorld {
 public:
  virtual ~DiskWorld() = default;
  virtual IoBackend& backend() = 0;
  virtual std::string directory() = 0;
  // The path of a device of zeroes; the error says why there is none.  It goes with the world.
  virtual Result<std::string> device(std::uint64_t size, std::uint32_t sector) = 0;
  // From now on no transfer is cut short, and with it what makes a write atomic.
  virtual void transfer_whole() {}
};

struct DiskWorldCase {
  std::string name;
  std::unique_ptr<DiskWorld> (*make)(const WorldCase&);
  WorldCase host;  // what the host's are made of
  bool in_memory;  // its files are on tmpfs
};

std::vector<DiskWorldCase> disk_worlds();

}  // namespace tidemark::contract
