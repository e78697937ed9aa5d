#include "control/transaction_commands.hpp"

#include <fmt/format.h>

#include "control/backup_actions.hpp"
#include "control/bitmap_actions.hpp"

namespace tidemark {
namespace {

using Kind = schema::TransactionActionKind;

const std::string* node_of(const schema::TransactionAction& action) {
  if (const auto* add = std::get_if<schema::BlockDirtyBitmapAddWrapper>(&action.branch)) return &add->data.node;
  if (const auto* bitmap = std::get_if<schema::BlockDirtyBitmapWrapper>(&action.branch)) return &bitmap->data.node;
  if (const auto* merge = std::get_if<schema::BlockDirtyBitmapMergeWrapper>(&action.branch)) return &merge->data.node;
  if (const auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.branch)) return &backup->data.device;
  if (const auto* backup = std::get_if<schema::DriveBackupWrapper>(&action.branch)) return &backup->data.device;
  return nullptr;
}

bool starts_job(Kind kind) { return kind == Kind::blockdev_backup || kind == Kind::drive_backup; }

}  // namespace

Task<> TransactionCommandHandler::transaction(schema::TransactionArguments arguments) {
  std::vector<Graph::DrainGuard> drained;
  co_await drain_all(arguments, drained);
  Made made;
  auto prepared = co_await prepare_all(arguments, made).result();
  if (prepared) {
    made.undo.commit();
    for (ManagedJob* job : made.jobs) jobs_.start(*job);
    co_return;
  }
  for (auto job = made.jobs.rbegin(); job != made.jobs.rend(); ++job) (void)co_await jobs_.abandon(**job).result();
  made.undo.abort();
  co_await prepared.error();
}

Task<> TransactionCommandHandler::drain_all(const schema::TransactionArguments& arguments,
                                            std::vector<Graph::DrainGuard>& drained) {
  std::vector<BlockNode*> nodes;
  for (const auto& action : arguments.actions) {
    const std::string* name = node_of(action);
    BlockNode* node = name ? graph_.find(*name) : nullptr;      // what is not there fails in its action
    if (node && std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
  }
  for (BlockNode* node : nodes) drained.push_back(co_await graph_.drain(*node));
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
    case Kind::block_dirty_bitmap_add: {
      const auto& data = std::get<schema::BlockDirtyBitmapAddWrapper>(action.branch).data;
      BlockNode* node = co_await unwrap(graph_.lookup(data.node));
      const std::uint32_t granularity = co_await default_granularity(*node);
      co_await unwrap(add_bitmap(graph_, data, granularity, made.undo));
      break;
    }
    case Kind::block_dirty_bitmap_remove:
      co_await unwrap(remove_bitmap(graph_, std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data, made.undo));
      break;
    case Kind::block_dirty_bitmap_clear:
      co_await unwrap(clear_bitmap(graph_, std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data, made.undo));
      break;
    case Kind::block_dirty_bitmap_enable:
    case Kind::block_dirty_bitmap_disable: {
      const bool enable = action.type == Kind::block_dirty_bitmap_enable;
      co_await unwrap(enable_bitmap(graph_, std::get<schema::BlockDirtyBitmapWrapper>(action.branch).data, enable, made.undo));
      break;
    }
    case Kind::block_dirty_bitmap_merge:
      co_await unwrap(merge_bitmaps(graph_, std::get<schema::BlockDirtyBitmapMergeWrapper>(action.branch).data, made.undo));
      break;
    case Kind::blockdev_backup: {
      auto& data = std::get<schema::BlockdevBackupWrapper>(action.branch).data;
      made.jobs.push_back(co_await make_backup(graph_, jobs_, std::move(data), std::move(group)));
      break;
    }
    case Kind::drive_backup: {
      auto& data = std::get<schema::DriveBackupWrapper>(action.branch).data;
      made.jobs.push_back(co_await make_backup(graph_, jobs_, std::move(data), std::move(group)));
      break;
    }
  }
}

}  // namespace tidemark
