// How a job takes out its filter in the end, which it must, though a request of a guest may hang for ever.
#pragma once

#include <algorithm>
#include <memory>

#include "block/graph.hpp"

namespace tidemark {

// Keeps the filter while guests go on between the tries: its other users may leave it then, and take it along.  Once it is replaced
// this is on what was below.
inline std::unique_ptr<Edge> hold_filter(BlockNode& filter) {
  const Permissions nothing{Permissions::none, Permissions::all};
  auto held = Edge::attach(filter, Role::filtered, nothing, "a job that ends");
  TM_ASSERT(held.ok());                          // who demands nothing does not conflict
  return *std::move(held);
}

// Drains a node, however long that takes: in tries that become longer, and between them guests go on.
inline Task<Graph::DrainGuard> patient_drain(BlockNode& node) {
  constexpr Duration rest = std::chrono::milliseconds(500), longest = std::chrono::seconds(30);
  for (Duration limit = rest;; limit = std::min(limit * 2, longest)) {
    auto drained = co_await node.graph().drain_within(node, limit).result();
    if (drained) co_return *std::move(drained);
    co_await node.reactor().sleep(rest);
  }
}

}  // namespace tidemark
