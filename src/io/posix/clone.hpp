// Clones of files: files that share their blocks with others until one is written to (FICLONE), on file systems that have
// them (XFS, Btrfs and others).
#pragma once

#include <string>

#include "base/error.hpp"

namespace tidemark {

// Empties `to`, which is there, and clones `from` into it, at once; false when the file system cannot.  Blocks the thread,
// for as long as the file system takes for it.
Result<bool> clone_file(const std::string& from, const std::string& to);

}  // namespace tidemark
