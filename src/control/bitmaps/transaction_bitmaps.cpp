#include "control/bitmaps/transaction_bitmaps.hpp"

#include "control/bitmaps/bitmap_actions.hpp"
#include "control/bitmaps/bitmap_change.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

using Kind = schema::TransactionActionKind;

const schema::BlockDirtyBitmapAdd* added_by(const schema::TransactionAction& action) noexcept {
  const auto* add = std::get_if<schema::BlockDirtyBitmapAddWrapper>(&action.branch);
  return add ? &add->data : nullptr;
}
const schema::BlockDirtyBitmapMerge* merged_by(const schema::TransactionAction& action) noexcept {
  const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch);
  return merge ? &merge->data : nullptr;
}

const std::string& node_of(const schema::TransactionAction& action) noexcept {
  if (const auto* add = added_by(action)) return add->node;
  if (const auto* merge = merged_by(action)) return merge->node;
  return std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data.node;
}

// On the thread of the action's node.

Result<> change_bitmap(Graph& graph, const schema::TransactionAction& action, std::uint32_t granularity,
                       const ForeignBits& foreign, Transaction& undo) {
  if (const auto* add = added_by(action)) return add_bitmap(graph, *add, granularity, undo);
  if (const auto* merge = merged_by(action)) return merge_bitmaps(graph, *merge, foreign, undo);
  const auto& bitmap = std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data;
  switch (action.type) {
    case Kind::block_dirty_bitmap_remove: return remove_bitmap(graph, bitmap, undo);
    case Kind::block_dirty_bitmap_clear: return clear_bitmap(graph, bitmap, undo);
    default: return enable_bitmap(graph, bitmap, action.type == Kind::block_dirty_bitmap_enable, undo);
  }
}

// The bitmap that the action is about; null before it is there.
NodeBitmap* find_target(BlockNode& node, const schema::TransactionAction& action) {
  if (const auto* add = added_by(action)) return node.bitmaps().find(add->name);
  if (const auto* merge = merged_by(action)) return node.bitmaps().find(merge->target);
  return node.bitmaps().find(std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data.name);
}

// Whether the bitmap is persistent.
Task<bool> touch(Graph& graph, const schema::TransactionAction& action, BitmapChange& change) {
  BlockNode* node = graph.pin(node_of(action));
  if (!node) co_return false;
  NodeBitmap* target = find_target(*node, action);
  co_await change.begin(*node);
  if (const auto* add = added_by(action)) co_return add->persistent;
  if (!target) co_return false;
  change.touch(*target);
  co_return target->persistent();
}

// The same.
Task<bool> act(Graph& graph, const schema::TransactionAction& action, const ForeignBits& foreign, BitmapChange& change) {
  const bool persistent = co_await touch(graph, action, change);
  std::uint32_t granularity = 0;
  if (const auto* add = added_by(action)) {
    BlockNode* node = co_await unwrap(graph.lookup(add->node));
    granularity = co_await default_granularity(*node);
    if (add->persistent) co_await prepare_persistent(*node, *add, granularity);
  }
  co_await unwrap(change_bitmap(graph, action, granularity, foreign, change.steps()));
  if (added_by(action)) change.touch(*find_target(*graph.find(node_of(action)), action));
  co_return persistent;
}

Task<> make_ready(Graph& graph, const schema::BlockDirtyBitmapAdd& arguments) {
  BlockNode* node = graph.find(arguments.node);
  if (node) co_await ensure_tracking_ahead(*node);
}

Task<> save(Graph& graph, const std::string& name, bool committed) {
  BlockNode* node = graph.pin(name);
  if (!node) co_return;
  if (committed) co_await forget_dropped(*node);
  else co_await save_tracking(*node);
}

// Before the commit, what was added becomes durable; after it, what was dropped is forgotten, and what was added when it is undone.
class BitmapAction final : public TransactionAction {
 public:
  BitmapAction(Homes& homes, schema::TransactionAction action, std::shared_ptr<UnsavedNodes> unsaved,
               std::shared_ptr<JobTransaction> group)
      : homes_(homes), action_(std::move(action)), unsaved_(std::move(unsaved)), group_(std::move(group)) {}

  std::vector<std::string> nodes() const override {
    std::vector<std::string> names{node_of(action_)};
    if (const auto* merge = merged_by(action_))
      for (const auto& source : merge->bitmaps)
        if (const std::string* name = source_node(source)) names.push_back(*name);
    return names;
  }

  // A store is made, or waited for, while guests go on; what has failed is not tried again while they wait.
  Task<> ahead(OpenedAhead&) override {
    const auto* add = added_by(action_);
    if (!add || !add->persistent) co_return;
    Place* place = co_await homes_.find(add->node);
    if (place) ready_ = co_await homes_.at(*place, make_ready(place->graph, *add)).result();
  }
  Task<> prepare() override {
    co_await unwrap(ready_);
    const std::string& node = node_of(action_);
    Task<Place*> finding = added_by(action_) ? homes_.lookup(node) : find_place_of_bitmap(homes_, node);
    Place* place = co_await std::move(finding);
    ForeignBits foreign;
    if (const auto* merge = merged_by(action_)) foreign = co_await copy_foreign_sources(homes_, *merge, *place);
    place_ = place;
    change_ = std::make_unique<BitmapChange>(homes_, *place, group_.get());
    persistent_ = co_await homes_.at(*place, act(place->graph, action_, foreign, *change_));
    if (persistent_) unsaved_->insert(node);
  }

  Task<> make_durable() override { return save_once(false); }
  Task<> commit() override {
    if (persistent_) unsaved_->insert(node_of(action_));
    co_await homes_.at(*place_, change_->take_effect());
    if (group_) group_->add(std::move(change_));
  }
  Task<> begin() override { return save_once(true); }
  Task<> abort() override {
    if (change_) co_await homes_.at(*place_, change_->undo());
    if (saved_) co_await homes_.at(*place_, save(place_->graph, node_of(action_), true));       // the first of a node, so the last here
  }

 private:
  Task<> save_once(bool committed) {
    if (unsaved_->erase(node_of(action_)) == 0) co_return;
    saved_ = true;
    co_await homes_.at(*place_, save(place_->graph, node_of(action_), committed));
  }

  Homes& homes_;
  const schema::TransactionAction action_;
  std::shared_ptr<UnsavedNodes> unsaved_;
  std::shared_ptr<JobTransaction> group_;
  Place* place_ = nullptr;
  std::unique_ptr<BitmapChange> change_;
  Result<> ready_;
  bool persistent_ = false, saved_ = false;
};

}  // namespace

bool is_about_bitmap(const schema::TransactionAction& action) noexcept {
  return added_by(action) || merged_by(action) || std::holds_alternative<schema::BlockDirtyBitmapWrapper>(action.branch);
}

std::unique_ptr<TransactionAction> make_bitmap_action(Homes& homes, schema::TransactionAction action,
                                                      std::shared_ptr<UnsavedNodes> unsaved,
                                                      std::shared_ptr<JobTransaction> group) {
  return std::make_unique<BitmapAction>(homes, std::move(action), std::move(unsaved), std::move(group));
}

}  // namespace tidemark
