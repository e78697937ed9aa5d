// Filters that users put above disks, and what they mean to a job on the disk.
#pragma once

#include "block/node.hpp"

namespace tidemark {

// Nobody uses the node but root users, and filters that show it to such: it is a disk, whatever filter guests see it through.
// Filters of jobs do not count as such: they are the job's affair.
bool is_disk(const BlockNode& node) noexcept;

// Where the same bytes are read without what filters on the way do to who reads through them: a throttle takes its guest's turn, a
// copy-on-read fills the image.  What is written through those has been written below them when it ends.
Edge& past_filters(Edge& edge) noexcept;

}  // namespace tidemark
