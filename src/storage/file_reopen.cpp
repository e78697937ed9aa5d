// A file that was opened for reading is opened for writing too, or the other way round: the same file, whatever its name leads
// to by now.  One that was left to other programs is taken up again: the file that has its name by now.  One whose page cache has lost
// what was written goes on with what is on the disk.
#include "storage/file_driver.hpp"
#include "storage/image_lock.hpp"

namespace tidemark {

Task<> FileDriver::set_read_only(bool read_only) {
  if (read_only == options_.read_only) co_return;
  if (!read_only && options_.force_share)
    co_await Error(Errc::invalid_argument, "force-share=on can only be used with read-only images");
  FileOptions wanted = options_;
  wanted.read_only = read_only;
  OpenFlags flags;
  flags.write = !read_only;
  flags.direct = wanted.direct;
  auto opened = co_await File::open(home().reactor(), file_.path(), flags).result();
  if (!opened) co_await Error::from_errno(opened.error().to_errno(), "Could not reopen '" + file_.path() + "'");
  File next = *std::move(opened);
  const Result<> replaced = co_await replace_file(next, wanted).result();
  (void)co_await next.close().result();                  // the one that is not used
  co_await unwrap(replaced);
}

Task<> FileDriver::replace_file(File& next, const FileOptions& wanted) {
  const FileInfo was = co_await file_.stat();
  const FileInfo is = co_await next.stat();
  if (was.device != is.device || was.inode != is.inode)
    co_await Error(Errc::busy, "Could not reopen '" + file_.path() + "': another file has its name by now");
  if (is.read_only && !wanted.read_only)
    co_await Error(Errc::permission, "Could not reopen '" + file_.path() + "': The device is not writable");
  if (wanted.locking) co_await move_lock(file_, lock_permissions(options_), next, lock_permissions(wanted));
  std::swap(file_, next);
  options_ = wanted;
}

// The page cache shows what could not be written, until the kernel needs the memory, and does not write it again.
Task<> FileDriver::open_anew() {
  if (!lost_) co_return;
  const std::uint64_t losses = losses_;
  co_await file_.sync();                                 // what was written since
  co_await file_.write_back(PageCache::drop);
  if (losses != losses_) co_await *lost_;                // another flush was under way, and has lost more
  lost_.reset();
  data_ = {};
  ++holes_made_;
}

// Who opens it next reads what is there.
Task<> FileDriver::close() {
  if (lost_) (void)co_await file_.write_back(PageCache::drop).result();
  co_await file_.close();
}

Task<> FileDriver::set_active(bool active) {
  if (!active) {
    // Who has the image next would believe that all is there.
    if (lost_) co_await *lost_;
    if (options_.locking) co_await unlock_image(file_);
    co_return;
  }
  OpenFlags flags;
  flags.direct = options_.direct;
  auto opened = co_await File::open(home().reactor(), file_.path(), flags).result();
  if (!opened) co_await Error::from_errno(opened.error().to_errno(), "Could not reopen '" + file_.path() + "'");
  File next = *std::move(opened);
  const Result<> taken = co_await take_up(next).result();
  (void)co_await next.close().result();                  // the one that is not used
  co_await unwrap(taken);
}

Task<> FileDriver::take_up(File& next) {
  const FileInfo found = co_await next.stat();
  if ((found.type == FileInfo::Type::block_device) != is_device_)
    co_await Error(Errc::invalid_argument, "Could not reopen '" + file_.path() + "': it is of another kind by now");
  if (options_.locking) co_await lock_image(next, lock_permissions(options_));
  const FileInfo info = co_await next.stat();            // who had the lock until now may have resized it
  if (info.size > max_disk_size)
    co_await Error(Errc::out_of_range, "Could not reopen '" + file_.path() + "': Image size is too large");
  std::swap(file_, next);
  limits_ = limits_of(info, options_.direct);
  size_ = info.size;
  data_ = {};
  ++holes_made_;
}

}  // namespace tidemark
