// What jobs at work on a disk mean to one that is about to begin: through filters it is one disk, whichever of its nodes is named.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "job/job_manager.hpp"

namespace tidemark {

// JobManager::check_unused() of a node and of all that it shows through filters.  Jobs of type `but` do nothing there that would
// concern who asks.  On the manager's thread.
Task<> check_disk_unused(JobManager& jobs, const BlockNode& node, Reactor& home, std::optional<JobType> but = {});

// The jobs that JobManager::check_unused() finds.
Task<std::vector<std::shared_ptr<ManagedJob>>> jobs_that_use(JobManager& jobs, const BlockNode& node, Reactor& home);

}  // namespace tidemark
