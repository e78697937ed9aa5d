// A step of a plan, carried out: by a daemon's jobs, or on files that nobody else uses.
//
// Whatever becomes of a step, the chain's top reads as before; steps that are done stay done.
#pragma once

#include "app/cli/chain/commands.hpp"

namespace tidemark::cli {

// Layers [first, last] of the chain go into the one above or below.
struct Removal {
  bool commit = false;
  std::size_t first = 0, last = 0;
  std::string preserve_removed = "off";          // of a commit
  std::size_t into() const noexcept { return commit ? last + 1 : first - 1; }
};

// `layers` as query-chain-cost tells them.  Fails where one of the steps cannot be carried out, or would change an internal snapshot.
Task<> check_steps(const Context& context, QmpClient* client, const Json& layers, std::vector<Removal> steps);

Task<> remove_live(const Context& context, QmpClient& client, const Json& layers, Removal step, std::uint64_t speed);
Task<> remove_offline(const Context& context, const Json& layers, Removal step);

}  // namespace tidemark::cli
