// The simulation as a world of the contract: healthy, and with whole transfers, since what a transfer
// may be cut to is the host's choice and the suite's examples are small.
#pragma once

#include "io/sim/backend.hpp"
#include "tests/contract/io/worlds.hpp"

namespace tidemark::contract {

class SimContractWorld final : public World {
 public:
  SimContractWorld() { world_.disk().make_directory(directory()); }
  IoBackend& backend() override { return backend_; }
  std::string directory() override { return "/work/area"; }
  bool has_threads() override { return false; }

 private:
  static SimOptions whole_transfers() {
    SimOptions options;
    options.short_file_ppm = options.short_stream_ppm = 0;
    return options;
  }
  SimWorld world_{2025, whole_transfers()};
  SimBackend backend_{world_};
};

inline std::unique_ptr<World> make_sim_world() { return std::make_unique<SimContractWorld>(); }

}  // namespace tidemark::contract
