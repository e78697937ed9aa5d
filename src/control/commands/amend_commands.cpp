#include "control/commands/amend_commands.hpp"

#include <fmt/format.h>

#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

Result<Qcow2AmendOptions> to_options(const schema::BlockdevAmendOptionsQcow2& given) {
  Qcow2AmendOptions options;
  if (given.version == schema::BlockdevQcow2Version::v2)
    return Error(Errc::unsupported, "an image in use cannot be made one of version 2; 'tidemark image amend' can do that when it is not");
  if (given.version) options.version = 3;
  options.lazy_refcounts = given.lazy_refcounts;
  options.data_file_raw = given.data_file_raw;
  return options;
}

Error not_there(const std::string& name) { return Error(Errc::not_found, fmt::format("Cannot find device='' nor node-name='{}'", name)); }

// On the node's thread.
Task<> check(Graph& graph, const std::string& name, std::string_view driver) {
  const BlockNode* node = graph.find(name);
  if (!node) co_await not_there(name);
  if (node->driver().name() != driver)
    co_await Error(Errc::unsupported, "x-blockdev-amend doesn't support changing the block driver");
  if (!node->active()) co_await Error(Errc::busy, fmt::format("Node '{}' is inactive; activate it with blockdev-set-active first", name));
  if (driver != "qcow2") co_await Error(Errc::unsupported, "Driver does not support x-blockdev-amend");
}

class AmendJob final : public Job {
 public:
  AmendJob(Graph& graph, std::string node, Qcow2AmendOptions options)
      : graph_(graph), name_(std::move(node)), options_(std::move(options)) {}
  JobType type() const noexcept override { return JobType::amend; }
  bool is_block_job() const noexcept override { return false; }
  JobProgress progress() const noexcept override { return {done_ ? 1u : 0u, 1}; }
  bool uses(const BlockNode& node) const noexcept override { return edge_ && &edge_->node() == &node; }

  Task<> run(JobContext&) override {
    const Result<> amended = co_await amend().result();
    edge_.reset();
    done_ = true;                                // as QEMU counts: tried, however it ended
    // An error that has a number is told by that alone, see CreateJob.
    if (!amended) co_await Error(amended.error().code(), amended.error().message());
  }

 private:
  // The node may have gone since the command, or become another one.
  Task<> amend() {
    BlockNode* node = graph_.find(name_);
    if (!node) co_await not_there(name_);
    if (node->driver().name() != "qcow2") co_await Error(Errc::busy, fmt::format("Node '{}' is no qcow2 image any more", name_));
    if (node->read_only()) co_await Error(Errc::permission, fmt::format("Block node '{}' is read-only", name_));
    const Permissions nothing{Permissions::none, Permissions::all};
    edge_ = co_await unwrap(Edge::attach(*node, Role::root, nothing, "a job that amends it"));
    const auto drained = co_await graph_.drain_within(*node);
    if (node->read_only()) co_await Error(Errc::permission, fmt::format("Block node '{}' is read-only", name_));
    co_await static_cast<Qcow2Driver&>(node->driver()).amend(options_);
  }

  Graph& graph_;
  const std::string name_;
  const Qcow2AmendOptions options_;
  std::unique_ptr<Edge> edge_;
  bool done_ = false;
};

}  // namespace

Task<> AmendCommandHandler::x_blockdev_amend(schema::XBlockdevAmendArguments arguments) {
  Place* place = co_await homes_.find(arguments.node_name);
  if (!place) co_await not_there(arguments.node_name);
  co_await homes_.at(*place, check(place->graph, arguments.node_name, schema::to_string(arguments.options.driver)));
  Qcow2AmendOptions wanted = co_await unwrap(to_options(std::get<schema::BlockdevAmendOptionsQcow2>(arguments.options.branch)));
  JobOptions options;
  options.id = std::move(arguments.job_id);
  options.auto_dismiss = false;                  // QEMU's: such a job waits for job-dismiss
  options.home = &place->reactor;
  std::unique_ptr<Job> work = std::make_unique<AmendJob>(place->graph, std::move(arguments.node_name), std::move(wanted));
  ManagedJob* job = co_await unwrap(jobs_.create(std::move(options), std::move(work)));
  co_await jobs_.start_at_home(*job);
}

}  // namespace tidemark
