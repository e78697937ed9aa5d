#include "control/snapshots/internal_snapshot.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "filter/disk_filters.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t ns_per_s = 1'000'000'000;

// On the node's thread.

// Also below filters, which QEMU refuses.
Task<BlockNode*> find_root(Graph& graph, std::string name) {
  BlockNode* node = co_await unwrap(graph.lookup(name));
  if (!is_disk(*node)) co_await Error(Errc::invalid_argument, "Need a root block node");
  co_return node;
}

Qcow2Driver* image_of(BlockNode& node) noexcept {
  return node.driver().name() == "qcow2" ? &static_cast<Qcow2Driver&>(node.driver()) : nullptr;
}

Task<> check_new(BlockNode& node, const std::string& name) {
  if (node.read_only()) co_await Error(Errc::permission, fmt::format("Device '{}' is read only", node.name()));
  Qcow2Driver* image = image_of(node);
  if (!image)
    co_await Error(Errc::unsupported, fmt::format("Block format '{}' used by device '{}' does not support internal snapshots",
                                                  node.driver().name(), node.name()));
  if (name.empty()) co_await Error(Errc::invalid_argument, "Name is empty");
  for (const Qcow2Snapshot& there : image->snapshots())
    if (there.name == name)
      co_await Error(Errc::exists, fmt::format("Snapshot with name '{}' already exists on device '{}'", name, node.name()));
}

// Its id.
Task<std::string> create(BlockNode& node, std::string name) {
  co_await check_new(node, name);
  Qcow2Driver& image = *image_of(node);
  const auto now = static_cast<std::uint64_t>(node.reactor().backend().wall_clock_ns());
  Qcow2Snapshot wanted;
  wanted.name = name;
  wanted.date_seconds = static_cast<std::uint32_t>(now / ns_per_s);
  wanted.date_nanoseconds = static_cast<std::uint32_t>(now % ns_per_s);
  const Result<> made = co_await image.create_snapshot(std::move(wanted)).result();
  if (!made) co_await made.error().with_context(fmt::format("Failed to create snapshot '{}' on device '{}'", name, node.name()));
  co_return image.snapshots().back().id;
}

Task<> remove(BlockNode& node, std::string id) { co_await image_of(node)->delete_snapshot(std::move(id)); }

Task<schema::SnapshotInfo> find_and_remove(BlockNode& node, std::optional<std::string> id, std::optional<std::string> name) {
  Qcow2Driver* image = image_of(node);
  if (!image) co_await Error(Errc::unsupported, "Failed to get a snapshot list: Operation not supported");
  const std::vector<Qcow2Snapshot> all = image->snapshots();
  const auto meant = [&](const Qcow2Snapshot& one) { return (!id || one.id == *id) && (!name || one.name == *name); };
  const auto found = std::find_if(all.begin(), all.end(), meant);
  if (found == all.end())
    co_await Error(Errc::not_found, fmt::format("Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                                                id.value_or("null"), name.value_or("null"), node.name()));
  if (node.read_only()) co_await Error(Errc::permission, fmt::format("Device '{}' is read only", node.name()));
  co_await remove(node, found->id);
  co_return describe_snapshot(*found);
}

class InternalSnapshot final : public TransactionAction {
 public:
  InternalSnapshot(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotInternal arguments)
      : homes_(homes), jobs_(jobs), arguments_(std::move(arguments)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> prepare() override {
    place_ = co_await homes_.lookup(arguments_.device);
    node_ = co_await homes_.at(*place_, find_root(place_->graph, arguments_.device));
    co_await jobs_.check_unused(*node_, place_->reactor);
    made_ = co_await homes_.at(*place_, create(*node_, arguments_.name));
  }
  Task<> abort() override {
    if (!made_.empty()) (void)co_await homes_.at(*place_, remove(*node_, made_)).result();
  }

 private:
  Homes& homes_;
  JobManager& jobs_;
  const schema::BlockdevSnapshotInternal arguments_;
  Place* place_ = nullptr;
  BlockNode* node_ = nullptr;
  std::string made_;
};

}  // namespace

schema::SnapshotInfo describe_snapshot(const Qcow2Snapshot& snapshot) {
  schema::SnapshotInfo info;
  info.id = snapshot.id;
  info.name = snapshot.name;
  info.vm_state_size = static_cast<std::int64_t>(snapshot.vm_state_bytes);
  info.date_sec = snapshot.date_seconds;
  info.date_nsec = snapshot.date_nanoseconds;
  info.vm_clock_sec = static_cast<std::int64_t>(snapshot.vm_clock_ns / ns_per_s);
  info.vm_clock_nsec = static_cast<std::int64_t>(snapshot.vm_clock_ns % ns_per_s);
  if (snapshot.icount != ~std::uint64_t{0}) info.icount = static_cast<std::int64_t>(snapshot.icount);
  return info;
}

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotInternal arguments) {
  return std::make_unique<InternalSnapshot>(homes, jobs, std::move(arguments));
}

Task<schema::SnapshotInfo> delete_snapshot(Homes& homes, JobManager& jobs,
                                           schema::BlockdevSnapshotDeleteInternalSyncArguments arguments) {
  Place* place = co_await homes.lookup(arguments.device);
  BlockNode* node = co_await homes.at(*place, find_root(place->graph, arguments.device));
  co_await jobs.check_unused(*node, place->reactor);
  if (!arguments.id && !arguments.name) co_await Error(Errc::invalid_argument, "Name or id must be provided");
  co_return co_await homes.at(*place, find_and_remove(*node, arguments.id, arguments.name));
}

}  // namespace tidemark
