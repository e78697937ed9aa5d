// Every driver that the contract holds for, as a way to make a disk in a world.
// To add one: a function and a line in disks.cpp.
#pragma once

#include "block/graph.hpp"
#include "tests/contract/block/worlds.hpp"

namespace tidemark::contract {

// Something that a case's disk needs beside its graph; stopped after the graph was closed.
class Beside {
 public:
  virtual ~Beside() = default;
  virtual Task<> stop() = 0;
};

struct DiskPlace {
  Graph& graph;
  DiskWorld& world;
  std::string device;              // made for a case that wants one
  std::unique_ptr<Beside> beside;  // made by a case that wants one
};

struct DiskCase {
  std::string name;
  // Makes a new disk of `size` zero bytes, or opens again what it made before.
  Task<BlockNode*> (*open)(DiskPlace& place, std::uint64_t size, bool create);
  bool stores = true;       // reads give what was written
  bool persistent = false;  // and so does the disk when it is opened again
  bool resizable = false;
  std::uint32_t sector = 0;  // of the device it wants; 0: none
  bool wants_disk = false;   // not on tmpfs: it is about direct I/O or costs too much
};

const std::vector<DiskCase>& disks();

}  // namespace tidemark::contract
