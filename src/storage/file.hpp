// The storages that are bytes in a file: `file` (a regular file) and `host_device` (a block
// device).
//
// Others who have the image open are told of it, and told apart, by QEMU's locks
// (storage/image_lock.hpp). Errors are QEMU's: "Could not open 'x': No such file or directory".
#pragma once

#include <memory>
#include <string>

#include "block/driver.hpp"
#include "io/file.hpp"

namespace tidemark {

struct FileOptions {
  std::string filename;
  bool read_only = false;
  bool direct = false;  // cache.direct: past the page cache
  bool locking = true;
  bool force_share = false;  // read in spite of another's lock; only with read_only
  bool active = true;        // else it is locked with BlockDriver::set_active; only with read_only
};

Task<std::unique_ptr<BlockDriver>> open_file(Reactor& reactor, FileOptions options);
Task<std::unique_ptr<BlockDriver>> open_host_device(Reactor& reactor, FileOptions options);

// qapi: PreallocMode, as far as files know it.
enum class FilePreallocation : std::uint8_t {
  off,     // sparse
  falloc,  // space reserved
  full,    // zeroes written, durable
};

// What a new file is in the place of.  One that is empty somebody has made to say whose it is.
enum class Replaced : std::uint8_t { nothing, empty_file, content };

// By it a file is known again, whatever has its name meanwhile.
struct CreatedFile {
  std::string path;
  std::uint64_t device = 0, inode = 0;
  Replaced replaced = Replaced::content;
};

// A regular file of `size` zero bytes, new or overwritten; refused while another uses it.  On error
// a file that was not there before is gone again, one that was is empty.
Task<CreatedFile> create_file(Reactor& reactor, std::string path, std::uint64_t size,
                              FilePreallocation preallocation, CancelToken interrupted = {});

// A new file for the time being, empty: one that an earlier run has left there goes first.  Refused while another uses that, and
// where it is a link, through which nothing is written.  Of those who make the same one at once it is one's: until he closes `maker`,
// which he does when it has its own name or is gone, it is refused to the others (Errc::busy).
Task<CreatedFile> create_partial(Reactor& reactor, std::string path, File& maker);

// What create_file() would overwrite; its refusals, without a change.
Task<Replaced> check_overwritable(Reactor& reactor, std::string path);

// Errc::busy unless the file still has its name.
Task<> check_named(Reactor& reactor, CreatedFile created);

// Brings back what was replaced, unless it was content, which is gone.  What somebody uses, or has made of the name, stays: busy.
Task<> undo_create_file(Reactor& reactor, CreatedFile created);

// After `why`: when that says that another program has taken the file since it was made, nothing of it is to be undone, also when
// he has let go of it by now.
void leave_if_taken(CreatedFile& created, const Error& why);

}  // namespace tidemark
