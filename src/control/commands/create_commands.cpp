#include "control/commands/create_commands.hpp"

#include <atomic>
#include <cerrno>

#include <fmt/format.h>

#include "control/graph/node_names.hpp"
#include "control/nodes/images_made.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

NodeNames names_in_creation(const schema::BlockdevCreateOptionsQcow2& image) {
  NodeNames names = names_in(image.file);
  if (!image.data_file) return names;
  const NodeNames more = names_in(*image.data_file);
  names.used.insert(names.used.end(), more.used.begin(), more.used.end());
  names.made.insert(names.made.end(), more.made.begin(), more.made.end());
  return names;
}

constexpr Duration look_every = std::chrono::milliseconds(50);

class CreateJob final : public Job {
 public:
  CreateJob(Graph& graph, schema::BlockdevCreateOptions options) : graph_(graph), options_(std::move(options)) {}
  JobType type() const noexcept override { return JobType::create; }
  bool is_block_job() const noexcept override { return false; }
  JobProgress progress() const noexcept override { return {done_ ? 1u : 0u, 1}; }
  Task<> run(JobContext&) override {
    CancelSource stop;
    const auto until_stopped = [&](TaskGroup& group) -> Task<> {
      group.spawn(watch(stop, group.token()));
      co_await create_image(graph_, std::move(options_), stop.token());
    };
    auto made = co_await with_group(graph_.reactor(), until_stopped).result();
    if (!made && stopped_) co_await Error(Errc::cancelled, "Operation canceled", ECANCELED);
    done_ = true;                                // as QEMU counts: tried, however it ended
    // A job that has an error number is told by that alone, as QEMU's copying jobs are; QEMU's of this type say all.
    if (!made) co_await Error(made.error().code(), made.error().message());
  }

  bool cancel(bool) noexcept override {
    stopped_ = true;
    return true;
  }

 private:
  // It is cancelled on another thread than it may run on.
  Task<> watch(CancelSource& stop, CancelToken token) {
    while (!stopped_) co_await graph_.reactor().sleep(look_every, token);
    stop.request();
  }

  Graph& graph_;
  schema::BlockdevCreateOptions options_;
  std::atomic<bool> stopped_ = false;
  bool done_ = false;
};

}  // namespace

Task<> CreateCommandHandler::blockdev_create(schema::BlockdevCreateArguments arguments) {
  if (std::holds_alternative<std::monostate>(arguments.options.branch))
    co_await Error(Errc::unsupported, "Driver does not support blockdev-create");
  NodeNames names;
  if (const auto* image = std::get_if<schema::BlockdevCreateOptionsQcow2>(&arguments.options.branch)) names = names_in_creation(*image);
  // The job opens its nodes when others may have taken their names, on other threads, too.
  if (!names.made.empty())
    co_await Error(Errc::unsupported, fmt::format("node '{}' cannot have a name: it is there only while the image is made; "
                                                  "leave 'node-name' out, or add the node before", names.made.front()));
  Place* place = co_await homes_.gather(std::move(names.used));
  JobOptions options;
  options.id = arguments.job_id;
  options.auto_dismiss = false;                  // QEMU's: such a job waits for job-dismiss
  options.home = &place->reactor;
  std::unique_ptr<Job> work = std::make_unique<CreateJob>(place->graph, std::move(arguments.options));
  ManagedJob* job = co_await unwrap(jobs_.create(std::move(options), std::move(work)));
  co_await jobs_.start_at_home(*job);
}

}  // namespace tidemark
