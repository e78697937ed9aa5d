#include "block/node.hpp"

#include <algorithm>

#include "block/graph.hpp"

namespace tidemark {

InFlight::InFlight(BlockNode& node) noexcept : node_(&node) { ++node.in_flight_; }

InFlight::~InFlight() {
  if (node_ && --node_->in_flight_ == 0 && node_->quiesced_) node_->graph_->idle_.notify_all();
}

BlockNode::BlockNode(Graph& graph, NodeOptions options, std::unique_ptr<BlockDriver> driver)
    : graph_(&graph), home_(graph.reactor()), options_(std::move(options)), driver_(std::move(driver)),
      limits_(driver_->limits()), size_largest_(size()), unit_lock_(home_),
      ignores_flush_(options_.cache_no_flush && driver_->edges().empty()) {
  driver_->home().move_to(graph.reactor());
  listen_to_driver();
}

void BlockNode::listen_to_driver() {
  driver_->listen_to_corruption(
      [this](const ImageCorruption& corruption) { graph_->tell(&Graph::Listeners::corruption, name(), corruption); });
}

BlockNode::~BlockNode() { TM_ASSERT(parents_.empty() && in_flight_ == 0); }

void BlockNode::tell_threshold(std::uint64_t end) noexcept {
  const std::uint64_t threshold = std::exchange(write_threshold_, no_threshold);
  graph_->tell(&Graph::Listeners::threshold, name(), threshold, end - threshold);
}

Reactor& BlockNode::reactor() const noexcept { return graph_->reactor(); }

bool BlockNode::has_writers() const noexcept {
  return std::any_of(parents_.begin(), parents_.end(), [](const Edge* user) { return user->permissions().writes(); });
}

Edge* BlockNode::child(Role role) const noexcept {
  for (Edge* edge : driver_->edges())
    if (edge->role() == role) return edge;
  return nullptr;
}

BlockNode* BlockNode::backing() const noexcept {
  Edge* edge = child(Role::backing);
  return edge ? &edge->node() : nullptr;
}

BlockNode* BlockNode::filtered() const noexcept {
  Edge* edge = driver_->is_filter() ? child(Role::filtered) : nullptr;
  return edge ? &edge->node() : nullptr;
}

Result<> BlockNode::check_range(std::uint64_t offset, std::uint64_t length, std::string_view verb) const {
  if (fits(offset, length, size())) return {};
  return Error(Errc::out_of_range, std::string(verb) + " node '" + name() + "': " + std::to_string(length) +
                                       " bytes at " + std::to_string(offset) + " reach beyond its end at " +
                                       std::to_string(size()));
}

Result<> BlockNode::check_writable(const Edge& via, Range range, std::string_view verb) const {
  constexpr Permissions::Set writing = Permissions::write | Permissions::write_unchanged | Permissions::resize;
  const bool may = !via.is_root() || (via.permissions_.uses & writing) != 0;
  if (!may || read_only())
    return Error(Errc::permission, std::string(verb) + " node '" + name() + "': it is read-only", EROFS);
  return check_range(range.offset, range.length, verb);
}

}  // namespace tidemark
