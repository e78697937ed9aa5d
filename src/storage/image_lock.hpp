// Image locking between processes, the way QEMU's `file` driver does it, so that each sees the
// other.
//
// What a user does with an image and what it lets others do are bytes of the file, one a
// permission: a shared lock on byte 100 + bit says "I use this", one on byte 200 + bit "nobody else
// may".  Locks never conflict in the kernel; a user looks for those of others after it has placed
// its own.  They belong to the open file and go with it.
#pragma once

#include "block/types.hpp"
#include "io/file.hpp"

namespace tidemark {

// Waits a moment for who goes.  Errc::busy: `Failed to get "write" lock`, and which image.  The file is to be closed then.
Task<> lock_image(File& file, Permissions permissions);

Task<> unlock_image(File& file);

// Errc::busy: the file is no image but a tracking store, and in use; what holds its first byte does not look at images' locks.
Task<> check_no_store(File& file);

// Of a file that is made under another name: one who makes it, or removes what an earlier run has left of it, at a time.  Unlike
// images' locks, of two who ask at once one gets it.  Errc::busy: another has it.
Task<> lock_as_maker(File& file);

// The same for an image that we have open already as `before`, which has no locks afterwards: there is no moment without.
// On error it has those that it had.
Task<> move_lock(File& before, Permissions had, File& file, Permissions permissions);

}  // namespace tidemark
