// How a job comes to be that takes hold of nodes: it attaches at its home, and lets go there again when that fails, or when
// there can be no such job.
#pragma once

#include "io/visit.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

// On the manager's thread.  `J` has attach() and clean(), which both are on home's.  On error nothing has changed.
template <class J>
Task<ManagedJob*> create_attached(JobManager& jobs, JobOptions options, Reactor& home, std::unique_ptr<J> made) {
  Reactor& here = jobs.reactor();
  co_await unwrap(jobs.check_id(options.id));
  options.home = &home;
  J& self = *made;
  std::unique_ptr<Job> job = std::move(made);
  Result<ManagedJob*> created = static_cast<ManagedJob*>(nullptr);
  const Result<> attached = co_await visit(here, home, self.attach()).result();
  if (attached) created = jobs.create(std::move(options), std::move(job));
  else created = attached.error();
  if (!created) (void)co_await visit(here, home, self.clean()).result();
  co_return co_await unwrap(std::move(created));
}

}  // namespace tidemark
