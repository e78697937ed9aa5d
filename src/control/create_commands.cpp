#include "control/create_commands.hpp"

#include "control/images_made.hpp"

namespace tidemark {
namespace {

class CreateJob final : public Job {
 public:
  CreateJob(Graph& graph, schema::BlockdevCreateOptions options) : graph_(graph), options_(std::move(options)) {}
  JobType type() const noexcept override { return JobType::create; }
  bool is_block_job() const noexcept override { return false; }
  JobProgress progress() const noexcept override { return {done_ ? 1u : 0u, 1}; }
  Task<> run(JobContext&) override {
    co_await create_image(graph_, std::move(options_));
    done_ = true;
  }

 private:
  Graph& graph_;
  schema::BlockdevCreateOptions options_;
  bool done_ = false;
};

}  // namespace

Task<> CreateCommandHandler::blockdev_create(schema::BlockdevCreateArguments arguments) {
  JobOptions options;
  options.id = arguments.job_id;
  options.auto_dismiss = false;                  // QEMU's: such a job waits for job-dismiss
  std::unique_ptr<Job> work = std::make_unique<CreateJob>(graph_, std::move(arguments.options));
  ManagedJob* job = co_await unwrap(jobs_.create(std::move(options), std::move(work)));
  jobs_.start(*job);
}

}  // namespace tidemark
