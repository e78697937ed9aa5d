#include "control/commands/reopen_commands.hpp"

#include <fmt/format.h>

#include "control/graph/node_names.hpp"
#include "control/graph/transaction_action.hpp"
#include "control/nodes/reopen.hpp"

namespace tidemark {
namespace {

using schema::BlockdevOptions;

Error not_there(const std::string& name) { return Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", name)); }

// The node may be gone since it was found.
Task<BlockNode*> find(Graph& graph, std::string name) {
  BlockNode* node = graph.pin(name);
  if (!node) co_await not_there(name);
  co_return node;
}

using ToReopen = std::vector<std::pair<BlockNode*, BlockdevOptions>>;

// On the nodes' thread.  One may have to wait for another: what is below is written first, and only read last.
Task<> reopen_one_by_one(ToReopen waiting, UndoSteps& undo) {
  for (const auto& [node, options] : waiting) co_await unwrap(check_reopen(*node, options));
  while (!waiting.empty()) {
    ToReopen left;
    std::optional<Error> first;
    for (auto& [node, options] : waiting) {
      const Result<> done = co_await reopen(*node, options, undo).result();
      if (done) continue;
      if (!first) first = done.error();
      left.emplace_back(node, std::move(options));
    }
    if (left.size() == waiting.size()) co_await *first;
    waiting = std::move(left);
  }
}

// What is described inline is at rest for its other users, too, also while something is taken back.
Task<> reopen_all(ToReopen all) {
  std::vector<Graph::DrainGuard> at_rest;
  for (const auto& [node, options] : all)
    for (BlockNode* one : reopened_with(*node, options)) at_rest.push_back(co_await one->graph().drain_within(*one));
  UndoSteps undo;
  const Result<> done = co_await reopen_one_by_one(std::move(all), undo).result();
  if (done) co_return;
  co_await take_back(undo, 0);
  co_await done.error();
}

Task<std::vector<BlockNode*>> find_with(Graph& graph, std::string name, const BlockdevOptions& options) {
  BlockNode* node = co_await find(graph, std::move(name));
  co_return reopened_with(*node, options);
}

class Reopen final : public TransactionAction {
 public:
  Reopen(Homes& homes, JobManager& jobs, std::vector<BlockdevOptions> options)
      : homes_(homes), jobs_(jobs), options_(std::move(options)) {}

  std::vector<std::string> nodes() const override {
    std::vector<std::string> names;
    for (const BlockdevOptions& one : options_) {
      if (one.node_name) names.push_back(*one.node_name);
      for (const std::string& name : names_in(one).used) names.push_back(name);
    }
    return names;
  }
  Task<> gather() override { (void)co_await homes_.gather(nodes()).result(); }
  Task<> prepare() override {
    ToReopen found;
    for (const BlockdevOptions& one : options_) {
      if (!one.node_name) co_await Error(Errc::invalid_argument, "node-name not specified");
      BlockNode* node = co_await look_up(one);
      found.emplace_back(node, one);
    }
    if (!place_) co_return;
    co_await homes_.at(*place_, reopen_all(std::move(found)));
  }

 private:
  Task<BlockNode*> look_up(const BlockdevOptions& options) {
    const std::string name = *options.node_name;
    Place* place = co_await homes_.find(name);
    if (!place) co_await not_there(name);
    if (place_ && place_ != place)
      co_await Error(Errc::busy, fmt::format("node '{}' is on another thread than others that are to be reopened", name));
    place_ = place;
    const std::vector<BlockNode*> nodes = co_await homes_.at(*place, find_with(place->graph, name, options));
    for (const BlockNode* node : nodes) co_await jobs_.check_unused(*node, place->reactor);
    co_return nodes.front();
  }

  Homes& homes_;
  JobManager& jobs_;
  const std::vector<BlockdevOptions> options_;
  Place* place_ = nullptr;
};

}  // namespace

Task<> ReopenCommandHandler::blockdev_reopen(schema::BlockdevReopenArguments arguments) {
  TransactionActions actions;
  actions.push_back(std::make_unique<Reopen>(homes_, jobs_, std::move(arguments.options)));
  co_await carry_out(homes_, std::move(actions));
}

}  // namespace tidemark
