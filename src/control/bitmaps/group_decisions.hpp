// GroupDecisions: that all of a group (completion-mode grouped) ends well becomes durable in all stores that it concerns, or in
// none (docs/decisions/0009-groups.md).
//
// Invariant: the one store that has it on record gets it when all others can ask for it.
#pragma once

#include <set>

#include "block/node_tracking.hpp"
#include "control/graph/homes.hpp"
#include "job/job_manager.hpp"
#include "task/sync.hpp"

namespace tidemark {

// On the main thread; the nodes of a group stay until its jobs are concluded.
class GroupDecisions {
 public:
  explicit GroupDecisions(Homes& homes) : homes_(homes), decided_(homes.main().reactor) {}

  // On error nothing was decided: the group is to be undone.
  Task<> decide(std::uint64_t group, JobTransaction::Homes homes);

 private:
  struct Store {
    Place* place;
    std::string node;
    bool lasts;                                  // over a loss of power
    GroupKeeper keeper;                          // if it were that
  };
  using Stores = std::vector<Store>;
  Task<Stores> find(std::uint64_t group, const JobTransaction::Homes& homes);
  static Stores::iterator choose(Stores& stores);
  Task<> decide_in_turn(std::uint64_t group, Stores others);
  Task<> intend(std::uint64_t group, const GroupKeeper& keeper, const Stores& stores);
  Task<> withdraw(std::uint64_t group, const Stores& stores);
  Task<bool> settle(std::uint64_t group, const Stores& stores);

  Homes& homes_;
  std::set<std::string> deciding_;               // nodes of groups that do: a store has one intent
  Event decided_;                                // one of them has
};

}  // namespace tidemark
