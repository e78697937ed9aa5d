// GroupDecisions: that all of a group (completion-mode grouped) ends well becomes durable in all stores that it concerns, or in
// none (docs/decisions/0009-groups.md).
//
// Invariant: the one store that has it on record gets it when all others can ask for it.
#pragma once

#include "block/node_tracking.hpp"
#include "control/homes.hpp"
#include "task/sync.hpp"

namespace tidemark {

// On the main thread; the nodes of a group stay until its jobs are concluded.
class GroupDecisions {
 public:
  explicit GroupDecisions(Homes& homes) : homes_(homes), turn_(homes.main().reactor) {}

  // On error nothing was decided: the group is to be undone.
  Task<> decide(std::uint64_t group);

 private:
  struct Store {
    Place* place;
    std::string node;
    GroupKeeper keeper;                          // if it were that
  };
  using Stores = std::vector<Store>;
  Task<Stores> find(std::uint64_t group);
  Task<> intend(std::uint64_t group, const GroupKeeper& keeper, const Stores& stores);
  Task<> withdraw(std::uint64_t group, const Stores& stores);
  Task<bool> settle(std::uint64_t group, const Stores& stores);

  Homes& homes_;
  Mutex turn_;                                   // a store has one intent
};

}  // namespace tidemark
