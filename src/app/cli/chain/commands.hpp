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
  std::string preserve_removed = "off";  // as a daemon's block-commit has it
};
Task<Exit> chain_remove(const Context& context, ChainRemoveOptions options);

struct ChainCopyOptions {
  ChainName chain;
  std::string target, format;            // format: empty: the disk's own
  bool shallow = false;                  // the top alone, on what it stands on
  bool reuse = false;                    // the target is there
  bool pivot = false, stay = false;      // of a daemon's disk, when the copy is equal: it goes over to it; the copy goes on
  std::uint64_t speed = 0;               // bytes a second; 0: as fast as it goes
};
Task<Exit> chain_copy(const Context& context, ChainCopyOptions options);

struct ChainRebaseOptions {
  ChainName chain;
  std::string base, format;              // base: a layer below, or a file; empty: nothing
  std::string layer;                     // that is to stand on it; empty: the top
  bool unsafe = false;                   // what it stands on now reads the same
  std::uint64_t speed = 0;
};
Task<Exit> chain_rebase(const Context& context, ChainRebaseOptions options);

}  // namespace tidemark::cli
