#include "control/reopen_commands.hpp"

#include <fmt/format.h>

#include "control/node_names.hpp"
#include "control/reopen.hpp"
#include "control/transaction_action.hpp"

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

// On the nodes' thread.  One may have to wait for another: what is below is written first, and only read last.
Task<> reopen_all(std::vector<std::pair<BlockNode*, BlockdevOptions>> waiting, UndoSteps& undo) {
  for (const auto& [node, options] : waiting) co_await unwrap(check_reopen(*node, options));
  while (!waiting.empty()) {
    std::vector<std::pair<BlockNode*, BlockdevOptions>> left;
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
    std::vector<std::pair<BlockNode*, BlockdevOptions>> found;
    for (const BlockdevOptions& one : options_) {
      if (!one.node_name) co_await Error(Errc::invalid_argument, "node-name not specified");
      BlockNode* node = co_await look_up(*one.node_name);
      found.emplace_back(node, one);
    }
    if (!place_) co_return;
    co_await homes_.at(*place_, reopen_all(std::move(found), undo_));
  }
  Task<> abort() override {
    if (place_) co_await homes_.at(*place_, take_back(undo_, 0));
  }

 private:
  Task<BlockNode*> look_up(std::string name) {
    Place* place = co_await homes_.find(name);
    if (!place) co_await not_there(name);
    if (place_ && place_ != place)
      co_await Error(Errc::busy, fmt::format("node '{}' is on another thread than others that are to be reopened", name));
    place_ = place;
    BlockNode* node = co_await homes_.at(*place, find(place->graph, name));
    co_await jobs_.check_unused(*node, place->reactor);
    co_return node;
  }

  Homes& homes_;
  JobManager& jobs_;
  const std::vector<BlockdevOptions> options_;
  Place* place_ = nullptr;
  UndoSteps undo_;
};

}  // namespace

Task<> ReopenCommandHandler::blockdev_reopen(schema::BlockdevReopenArguments arguments) {
  TransactionActions actions;
  actions.push_back(std::make_unique<Reopen>(homes_, jobs_, std::move(arguments.options)));
  co_await carry_out(homes_, std::move(actions));
}

}  // namespace tidemark
