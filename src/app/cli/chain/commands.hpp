// The verbs of `tidemark chain`: what each was asked to do, and the coroutine that does it.
#pragma once

#include <string>
#include <vector>

#include "app/cli/context.hpp"

namespace tidemark::cli {

// A chain: of a daemon's node when there is a daemon, else of an image file.
struct ChainName {
  bool live = false;
  std::string top;                       // a node, or a file
};

struct ChainShowOptions {
  ChainName chain;
};
Task<Exit> chain_show(const Context& context, ChainShowOptions options);

struct ChainPlanOptions {
  ChainName chain;
  std::vector<std::string> layers;       // to be removed, as find_layer() takes them
};
Task<Exit> chain_plan(const Context& context, ChainPlanOptions options);

struct ChainRemoveOptions {
  enum class Way : std::uint8_t { cheapest, pull, commit } way = Way::cheapest;
  ChainName chain;
  std::vector<std::string> layers;
  std::uint64_t speed = 0;               // bytes a second of a daemon's jobs; 0: as fast as it goes
};
Task<Exit> chain_remove(const Context& context, ChainRemoveOptions options);

}  // namespace tidemark::cli
