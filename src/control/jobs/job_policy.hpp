// What a job does when a request fails, from the schema's word to the job's.
#pragma once

#include "job/job_types.hpp"
#include "schema/block_job.hpp"

namespace tidemark {

inline OnError to_policy(schema::BlockdevOnError policy) noexcept {
  switch (policy) {
    case schema::BlockdevOnError::report: return OnError::report;
    case schema::BlockdevOnError::ignore: return OnError::ignore;
    case schema::BlockdevOnError::enospc: return OnError::enospc;
    case schema::BlockdevOnError::stop: return OnError::stop;
    case schema::BlockdevOnError::auto_: return OnError::automatic;
  }
  return OnError::report;
}

}  // namespace tidemark
