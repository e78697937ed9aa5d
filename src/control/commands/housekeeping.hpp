// Housekeeping: what disks that nobody uses let go of in time.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/command_lock.hpp"

namespace tidemark {

// Tables of qcow2 images that have not been used for their cache-clean-interval, and that a file that nobody writes to any more is open
// for it.  Ends when the token is asked, or the lock is closed; the homes outlive it.
Task<> keep_house(Homes& homes, CommandLock& lock, CancelToken token);

}  // namespace tidemark
