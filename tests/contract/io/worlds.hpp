// The backends that the contract runs on.  A World is one backend with a directory to work in.
// To add a backend: one line in worlds.cpp's list.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/backend.hpp"

namespace tidemark::contract {

class World {
 public:
  virtual ~World() = default;
  virtual IoBackend& backend() = 0;
  virtual std::string directory() = 0;           // exists, is empty; removed with the world
  virtual bool has_threads() { return true; }    // wake() may come from another thread
};

struct WorldCase {
  std::string name;
  std::unique_ptr<World> (*make)();
};

const std::vector<WorldCase>& worlds();

}  // namespace tidemark::contract
