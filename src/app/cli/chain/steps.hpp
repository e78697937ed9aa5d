// A step of a plan, carried out: by a daemon's jobs, or on files that nobody else uses.
//
// Whatever becomes of a step, the chain's top reads as before; steps that are done stay done.
#pragma once

#include "app/cli/chain/commands.hpp"
#include "app/cli/chain/nodes.hpp"

namespace tidemark::cli {

// Layers [first, last] of the chain go into the one above or below.
struct Removal {
  bool commit = false;
  std::size_t first = 0, last = 0;
  std::string preserve_removed = "off";          // of a commit
  std::size_t into() const noexcept { return commit ? last + 1 : first - 1; }
};

// Whether a disk that is committed to the layers below would be larger then.
bool would_grow(const Json& layers, std::size_t into);

// `layers` as query-chain-cost tells them.  Fails where one of the steps cannot be carried out, or would change an internal snapshot, or
// the disk's size.
Task<> check_steps(const Context& context, QmpClient* client, const Json& layers, std::vector<Removal> steps);

// `speed`: bytes a second of a daemon's job; 0: as fast as it goes.  Of a daemon's disk that has gone over to what its top was
// committed to: what is left of that top.
Task<LeftNode> carry_out(const Context& context, QmpClient* client, const Json& layers, Removal step, std::uint64_t speed);

}  // namespace tidemark::cli
