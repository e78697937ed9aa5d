#include "control/transaction_commands.hpp"

#include <fmt/format.h>

#include "control/backup_actions.hpp"
#include "control/bitmap_actions.hpp"
#include "control/drain_set.hpp"
#include "control/tracking_stores.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

using Kind = schema::TransactionActionKind;

// The node that an action changes.
const std::string* node_of(const schema::TransactionAction& action) {
  if (const auto* add = std::get_if<schema::BlockDirtyBitmapAddWrapper>(&action.branch)) return &add->data.node;
  if (const auto* bitmap = std::get_if<schema::BlockDirtyBitmapWrapper>(&action.branch)) return &bitmap->data.node;
  if (const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch)) return &merge->data.node;
  if (const auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.branch)) return &backup->data.device;
  if (const auto* backup = std::get_if<schema::DriveBackupWrapper>(&action.branch)) return &backup->data.device;
  return nullptr;
}

std::vector<std::string> nodes_of(const schema::TransactionArguments& arguments) {
  std::vector<std::string> names;
  for (const auto& action : arguments.actions) {
    if (const std::string* name = node_of(action)) names.push_back(*name);
    const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch);
    if (!merge) continue;
    for (const auto& source : merge->data.bitmaps)
      if (const std::string* name = source_node(source)) names.push_back(*name);
  }
  return names;
}

bool starts_job(Kind kind) { return kind == Kind::blockdev_backup || kind == Kind::drive_backup; }

// On the thread of the action's node.

Result<> change_bitmap(Graph& graph, const schema::TransactionAction& action, std::uint32_t granularity,
                       const ForeignBits& foreign, Transaction& undo) {
  if (const auto* add = std::get_if<schema::BlockDirtyBitmapAddWrapper>(&action.branch))
    return add_bitmap(graph, add->data, granularity, undo);
  if (const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch))
    return merge_bitmaps(graph, merge->data, foreign, undo);
  const auto& bitmap = std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data;
  switch (action.type) {
    case Kind::block_dirty_bitmap_remove: return remove_bitmap(graph, bitmap, undo);
    case Kind::block_dirty_bitmap_clear: return clear_bitmap(graph, bitmap, undo);
    default: return enable_bitmap(graph, bitmap, action.type == Kind::block_dirty_bitmap_enable, undo);
  }
}

Task<> act_on_bitmap(Graph& graph, const schema::TransactionAction& action, const ForeignBits& foreign, Transaction& undo) {
  std::uint32_t granularity = 0;
  if (action.type == Kind::block_dirty_bitmap_add) {
    BlockNode* node = co_await unwrap(graph.lookup(*node_of(action)));
    granularity = co_await default_granularity(*node);
    const auto& add = std::get<schema::BlockDirtyBitmapAddWrapper>(action.branch).data;
    if (add.persistent) co_await ensure_tracking(*node);
  }
  co_await unwrap(change_bitmap(graph, action, granularity, foreign, undo));
}

Task<> save_node(Graph& graph, const std::string& name, bool committed) {
  BlockNode* node = graph.find(name);
  if (!node) co_return;
  if (committed) co_await forget_dropped(*node);
  else co_await save_tracking(*node);
}

Task<> end(Transaction& undo, bool well) {
  if (well) undo.commit();
  else undo.abort();
  co_return;
}

}  // namespace

Task<> TransactionCommandHandler::transaction(schema::TransactionArguments arguments) {
  co_await bring_together(arguments);
  DrainSet drained(homes_);
  auto work = [&]() -> Task<> {
    if (homes_.main().graph.keeps(Rule::drain_together)) co_await drained.add(nodes_of(arguments));
    co_await carry_out(arguments);
  };
  auto release = [&drained]() -> Task<> { return drained.release(); };
  co_await finally(work(), release);
}

// While they still can: what is drained does not move.  What is not there fails in its action.
Task<> TransactionCommandHandler::bring_together(const schema::TransactionArguments& arguments) {
  for (const auto& action : arguments.actions)
    if (const auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.branch)) {
      std::vector<std::string> names{backup->data.device, backup->data.target};
      (void)co_await homes_.gather(std::move(names)).result();
    }
}

Task<> TransactionCommandHandler::carry_out(schema::TransactionArguments& arguments) {
  Made made{{}, {}, {}, DriveImages(homes_)};
  auto prepared = co_await prepare_all(arguments, made).result();
  if (prepared) prepared = co_await save(made, false).result();
  if (prepared) prepared = co_await made.images.overwrite_all().result();
  if (prepared) {
    co_await commit(made);
    co_return co_await save(made, true);
  }
  co_await abort(made);
  co_await prepared.error();
}

// Before the commit, what was added becomes durable; after it, what was dropped is forgotten.
Task<> TransactionCommandHandler::save(Made& made, bool committed) {
  for (const auto& [node, place] : made.changed) co_await homes_.at(*place, save_node(place->graph, node, committed));
}

Task<> TransactionCommandHandler::commit(Made& made) {
  for (auto& [place, undo] : made.undo) co_await homes_.at(*place, end(undo, true));
  for (ManagedJob* job : made.jobs) co_await jobs_.start_at_home(*job);
}

Task<> TransactionCommandHandler::abort(Made& made) {
  for (auto job = made.jobs.rbegin(); job != made.jobs.rend(); ++job) (void)co_await jobs_.abandon(**job).result();
  co_await made.images.undo();
  for (auto& [place, undo] : made.undo) co_await homes_.at(*place, end(undo, false));
}

Task<> TransactionCommandHandler::prepare_all(schema::TransactionArguments& arguments, Made& made) {
  const bool grouped =
      arguments.properties && arguments.properties->completion_mode == schema::ActionCompletionMode::grouped;
  std::shared_ptr<JobTransaction> group;
  if (grouped) group = jobs_.new_transaction();
  for (auto& action : arguments.actions) {
    if (grouped && !starts_job(action.type) && action.type != Kind::abort)
      co_await Error(Errc::unsupported,
                     fmt::format("Action '{}' does not support transaction property completion-mode = grouped",
                                 schema::to_string(action.type)));
    co_await prepare(action, made, group);
  }
}

Task<> TransactionCommandHandler::prepare(schema::TransactionAction& action, Made& made,
                                          std::shared_ptr<JobTransaction> group) {
  switch (action.type) {
    case Kind::abort: co_await Error(Errc::cancelled, "Transaction aborted using Abort action"); break;
    case Kind::blockdev_backup: {
      auto& data = std::get<schema::BlockdevBackupWrapper>(action.branch).data;
      made.jobs.push_back(co_await make_backup(homes_, jobs_, std::move(data), std::move(group)));
      break;
    }
    case Kind::drive_backup: {
      auto& data = std::get<schema::DriveBackupWrapper>(action.branch).data;
      made.jobs.push_back(co_await make_backup(homes_, jobs_, std::move(data), std::move(group), made.images));
      break;
    }
    default: co_await prepare_bitmap(action, made);
  }
}

Task<> TransactionCommandHandler::prepare_bitmap(const schema::TransactionAction& action, Made& made) {
  const std::string& node = *node_of(action);
  const bool added = action.type == Kind::block_dirty_bitmap_add;
  Task<Place*> finding = added ? homes_.lookup(node) : find_place_of_bitmap(homes_, node);
  Place* place = co_await std::move(finding);
  ForeignBits foreign;
  if (const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch))
    foreign = co_await copy_foreign_sources(homes_, merge->data, *place);
  made.changed.try_emplace(*node_of(action), place);
  Transaction& undo = made.undo.try_emplace(place).first->second;
  co_await homes_.at(*place, act_on_bitmap(place->graph, action, foreign, undo));
}

}  // namespace tidemark
