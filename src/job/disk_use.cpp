#include "job/disk_use.hpp"

#include <algorithm>
#include <iterator>

#include "block/node.hpp"
#include "io/visit.hpp"

namespace tidemark {
namespace {

using Jobs = std::vector<std::shared_ptr<ManagedJob>>;

Jobs jobs_at(const JobManager& jobs, const Reactor& home) {
  Jobs there;
  for (const auto& job : jobs.jobs())
    if (&job->home() == &home) there.push_back(job);
  return there;
}

// At home.

Task<Jobs> users_among(const Jobs& jobs, const BlockNode& node) {
  Jobs users;
  std::copy_if(jobs.begin(), jobs.end(), std::back_inserter(users), [&](const auto& job) { return job->job().uses(node); });
  co_return std::move(users);
}

Task<> check_none_uses_disk(const Jobs& jobs, const BlockNode& node) {
  for (const BlockNode* shown = &node; shown; shown = shown->filtered())
    for (const auto& job : jobs)
      if (job->job().uses(*shown))
        co_await Error(Errc::busy, "Node '" + shown->name() + "' is busy: block device is in use by block job: " +
                                       std::string(to_string(job->job().type())));
}

}  // namespace

Task<> check_disk_unused(JobManager& jobs, const BlockNode& node, Reactor& home, std::optional<JobType> but) {
  Jobs there = jobs_at(jobs, home);
  std::erase_if(there, [but](const auto& job) { return job->job().type() == but; });
  co_await visit(jobs.reactor(), home, check_none_uses_disk(there, node));
}

Task<Jobs> jobs_that_use(JobManager& jobs, const BlockNode& node, Reactor& home) {
  const Jobs there = jobs_at(jobs, home);
  co_return co_await visit(jobs.reactor(), home, users_among(there, node));
}

}  // namespace tidemark
