#include "control/commands/checkpoint_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/bitmaps/checkpoint_actions.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

// On a disk's thread.

Task<std::string> image_name(Graph& graph, std::string disk) {
  const BlockNode* image = co_await find_disk_image(graph, std::move(disk));
  co_return image->name();
}

Task<> create(BlockNode& image, const schema::CheckpointCreate& arguments, std::uint64_t taken, BitmapChange& change) {
  co_await change.begin(image);
  co_await create_checkpoint(image, arguments, taken, change);
}

Task<> remove(BlockNode& image, const std::string& name, BitmapChange& change) {
  co_await change.begin(image);
  co_await unwrap(delete_checkpoint(image, name, change));
}

// The names of those nodes of one thread whose disk has the checkpoint.
Task<std::vector<std::string>> nodes_with(Graph& graph, const std::string& name) {
  std::vector<std::string> nodes;
  const std::vector<FoundCheckpoint> all = co_await describe_checkpoints(graph);
  for (const FoundCheckpoint& found : all)
    if (found.name.name == name) nodes.push_back(found.disk.node);
  co_return std::move(nodes);
}

// What creation and deletion have in common: each disk has its part, which takes effect with those of the others.
class CheckpointAction : public TransactionAction {
 public:
  CheckpointAction(Homes& homes, std::vector<std::string> disks, std::shared_ptr<JobTransaction> group)
      : homes_(homes), names_(std::move(disks)), group_(std::move(group)) {}

  std::vector<std::string> nodes() const override { return names_; }
  // The images are what is to be at rest, whoever writes to them; a disk that is not there is told of in prepare().
  Task<> gather() override {
    for (std::string& name : names_) {
      Place* place = co_await homes_.find(name);
      if (place) name = co_await homes_.at(*place, image_name(place->graph, name));
    }
  }
  Task<> make_durable() override {
    saved_ = true;
    for (const auto& part : parts_) co_await homes_.at(*part->place, save_tracking(*part->image));
  }
  Task<> commit() override {
    for (const auto& part : parts_) {
      co_await homes_.at(*part->place, part->change->take_effect());
      if (group_) group_->add(std::move(part->change));
    }
  }
  Task<> begin() override { return forget_all(); }
  Task<> abort() override {
    for (auto part = parts_.rbegin(); part != parts_.rend(); ++part) co_await homes_.at(*(*part)->place, (*part)->change->undo());
    if (saved_) co_await forget_all();
  }

 protected:
  struct Part {
    Place* place = nullptr;
    BlockNode* image = nullptr;
    std::unique_ptr<BitmapChange> change;
  };
  Task<> find_disks() {
    for (const std::string& name : names_) {
      Place* place = co_await homes_.lookup(name);
      BlockNode* image = co_await homes_.at(*place, find_disk_image(place->graph, name));
      auto part = std::make_unique<Part>();
      part->place = place;
      part->image = image;
      part->change = std::make_unique<BitmapChange>(homes_, *place, group_.get());
      parts_.push_back(std::move(part));
    }
  }

  Homes& homes_;
  std::vector<std::string> names_;
  std::shared_ptr<JobTransaction> group_;
  std::vector<std::unique_ptr<Part>> parts_;

 private:
  Task<> forget_all() {
    for (const auto& part : parts_) co_await homes_.at(*part->place, forget_dropped(*part->image));
  }

  bool saved_ = false;
};

class Creation final : public CheckpointAction {
 public:
  Creation(Homes& homes, schema::CheckpointCreate arguments, std::shared_ptr<JobTransaction> group)
      : CheckpointAction(homes, arguments.disks, std::move(group)), arguments_(std::move(arguments)) {}

  // Stores are made, or waited for, while guests go on; what has failed is not tried again while they wait.
  Task<> ahead(OpenedAhead&) override {
    for (const std::string& name : names_) {
      Place* place = co_await homes_.find(name);
      if (place && ready_) ready_ = co_await homes_.at(*place, prepare_checkpoint(place->graph, name, arguments_)).result();
    }
  }
  Task<> prepare() override {
    if (names_.empty()) co_await Error(Errc::invalid_argument, "a checkpoint needs a disk");
    co_await find_disks();
    co_await unwrap(ready_);
    auto taken = static_cast<std::uint64_t>(homes_.main().reactor.backend().wall_clock_ns() / 1000);
    for (const auto& part : parts_) taken = co_await homes_.at(*part->place, next_time(*part->image, taken));
    for (const auto& part : parts_)
      co_await homes_.at(*part->place, create(*part->image, arguments_, taken, *part->change));
  }

 private:
  const schema::CheckpointCreate arguments_;
  Result<> ready_;
};

class Deletion final : public CheckpointAction {
 public:
  Deletion(Homes& homes, schema::CheckpointDelete arguments, std::shared_ptr<JobTransaction> group)
      : CheckpointAction(homes, arguments.disks.value_or(std::vector<std::string>()), std::move(group)),
        arguments_(std::move(arguments)) {}

  // Which disks have it is found while they can be brought to rest; one that the same transaction takes has none yet.
  Task<> gather() override {
    if (arguments_.disks) co_return co_await CheckpointAction::gather();
    for (Place* place : homes_.all()) {
      const std::vector<std::string> there = co_await homes_.at(*place, nodes_with(place->graph, arguments_.name));
      names_.insert(names_.end(), there.begin(), there.end());
    }
  }
  Task<> prepare() override {
    if (names_.empty()) co_await Error(Errc::not_found, fmt::format("Checkpoint '{}' not found", arguments_.name));
    co_await find_disks();
    for (const auto& part : parts_) co_await homes_.at(*part->place, remove(*part->image, arguments_.name, *part->change));
  }

 private:
  const schema::CheckpointDelete arguments_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_checkpoint_action(Homes& homes, schema::CheckpointCreate arguments,
                                                          std::shared_ptr<JobTransaction> group) {
  return std::make_unique<Creation>(homes, std::move(arguments), std::move(group));
}

std::unique_ptr<TransactionAction> make_checkpoint_action(Homes& homes, schema::CheckpointDelete arguments,
                                                          std::shared_ptr<JobTransaction> group) {
  return std::make_unique<Deletion>(homes, std::move(arguments), std::move(group));
}

Task<> CheckpointCommandHandler::checkpoint_create(schema::CheckpointCreate arguments) {
  TransactionActions actions;
  actions.push_back(make_checkpoint_action(homes_, std::move(arguments), nullptr));
  co_await carry_out(homes_, std::move(actions));
}

Task<> CheckpointCommandHandler::checkpoint_delete(schema::CheckpointDelete arguments) {
  TransactionActions actions;
  actions.push_back(make_checkpoint_action(homes_, std::move(arguments), nullptr));
  co_await carry_out(homes_, std::move(actions));
}

Task<std::vector<schema::CheckpointInfo>> CheckpointCommandHandler::query_checkpoints() {
  std::vector<FoundCheckpoint> found;
  for (Place* place : homes_.all()) {
    auto there = co_await homes_.at(*place, describe_checkpoints(place->graph));
    found.insert(found.end(), std::make_move_iterator(there.begin()), std::make_move_iterator(there.end()));
  }
  const auto order = [](const FoundCheckpoint& one) { return std::tie(one.name.taken, one.name.name); };
  std::ranges::stable_sort(found, {}, order);
  std::vector<schema::CheckpointInfo> all;
  for (FoundCheckpoint& one : found) {
    const auto taken = static_cast<std::int64_t>(one.name.taken);
    if (all.empty() || all.back().taken != taken || all.back().name != one.name.name) {
      schema::CheckpointInfo info;
      info.name = one.name.name;
      info.taken = taken;
      all.push_back(std::move(info));
    }
    all.back().disks.push_back(std::move(one.disk));
  }
  co_return std::move(all);
}

}  // namespace tidemark
