// Mirrors as QMP asks for them, up to jobs that are made and not started.
#pragma once

#include "control/graph/homes.hpp"
#include "job/mirror/mirror.hpp"
#include "schema/mirror.hpp"

namespace tidemark {

Task<ManagedJob*> make_mirror(Homes& homes, JobManager& jobs, ChainAccess& access, schema::BlockdevMirror arguments);
// Makes or opens the target, too.  A file that is there keeps its content when it is refused for what can be known
// before.
Task<ManagedJob*> make_mirror(Homes& homes, JobManager& jobs, ChainAccess& access, schema::DriveMirror arguments);

}  // namespace tidemark
