#include "storage/file.hpp"

#include <algorithm>

#include "storage/file_driver.hpp"
#include "storage/image_lock.hpp"

namespace tidemark {
namespace {

using P = Permissions;
using Type = FileInfo::Type;

Error could_not(std::string_view verb, const Error& error, const std::string& path) {
  const std::string what = "Could not " + std::string(verb) + " '" + path + "'";
  return error.os_errno() ? Error::from_errno(error.os_errno(), what) : error.with_context(what);
}

Error wrong_type(std::string_view driver, const std::string& path, Type wanted) {
  const std::string_view kind = wanted == Type::regular ? "a regular file" : "a block device";
  return Error(Errc::invalid_argument, "'" + std::string(driver) + "' driver requires '" + path +
                                           "' to be " + std::string(kind));
}

Task<FileInfo> check_and_lock(File& file, const FileOptions& options, std::string_view driver,
                              Type wanted) {
  const FileInfo info = co_await file.stat();
  if (info.type != wanted) co_await wrong_type(driver, options.filename, wanted);
  if (info.read_only && !options.read_only)
    co_await Error(Errc::permission,
                   "Could not open '" + options.filename + "': The device is not writable");
  const bool locked = options.locking && options.active;
  if (locked) co_await lock_image(file, lock_permissions(options));
  if (locked && wanted == Type::regular && !options.read_only) co_await check_no_store(file);
  // Who had the lock until now may have resized it.
  const FileInfo ours = co_await file.stat();
  if (ours.size > max_disk_size)
    co_await Error(Errc::out_of_range,
                   "Could not open '" + options.filename + "': Image size is too large");
  co_return ours;
}

Task<std::unique_ptr<BlockDriver>> open_storage(Reactor& reactor, FileOptions options,
                                                std::string_view driver, Type wanted) {
  if (options.filename.empty())
    co_await Error(Errc::invalid_argument,
                   "The '" + std::string(driver) + "' block driver requires a file name");
  if (options.force_share && !options.read_only)
    co_await Error(Errc::invalid_argument, "force-share=on can only be used with read-only images");
  OpenFlags flags;
  flags.write = !options.read_only;
  flags.direct = options.direct;
  Result<File> found = co_await File::open(reactor, options.filename, flags).result();
  if (!found) co_await could_not("open", found.error(), options.filename);
  File file = *std::move(found);
  const Result<FileInfo> info = co_await check_and_lock(file, options, driver, wanted).result();
  if (!info) {
    (void)co_await file.close().result();
    co_await info.error();
  }
  std::unique_ptr<BlockDriver> opened =
      std::make_unique<FileDriver>(std::move(file), *info, std::move(options));
  co_return opened;
}

Task<> size_new(File& file, std::uint64_t size, FilePreallocation preallocation, CancelToken interrupted) {
  co_await file.truncate(size);
  if (size == 0) co_return;
  const Range all{0, size};
  if (preallocation == FilePreallocation::falloc)
    co_await file.allocate(AllocateMode::preallocate, all);
  if (preallocation == FilePreallocation::full) co_await write_zeroes_to(file, all, interrupted);
}

// A new file's name is durable once its directory is; one that may not be read cannot be synced.
Task<> sync_name(Reactor& reactor, const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const Result<> synced = co_await fs::sync_dir(reactor, directory).result();
  if (!synced && synced.error().code() != Errc::permission) co_await synced.error();
}

Task<> take_new(File& file) {
  const FileInfo info = co_await file.stat();
  if (info.type != Type::regular) co_await wrong_type("file", file.path(), Type::regular);
  const FileOptions writer{.filename = file.path()};
  co_await lock_image(file, lock_permissions(writer));
  co_await check_no_store(file);
  // Between its opening and its lock another may have made it, and given it its own name.
  const auto named = co_await fs::stat(file.reactor(), file.path()).result();
  if (!named || named->device != info.device || named->inode != info.inode)
    co_await Error(Errc::busy, "Could not create '" + file.path() + "': another program has replaced it at this moment");
}

Task<> fill_new(File& file, std::uint64_t size, FilePreallocation preallocation, CancelToken interrupted, CreatedFile& created) {
  co_await take_new(file);
  // A size that the file system cannot have is refused while the old content is there.
  const FileInfo info = co_await file.stat();
  created.device = info.device;
  created.inode = info.inode;
  if (created.replaced != Replaced::nothing) created.replaced = info.size == 0 ? Replaced::empty_file : Replaced::content;
  if (size > info.size) co_await file.truncate(size);
  co_await file.truncate(0);
  const Result<> sized = co_await size_new(file, size, preallocation, interrupted).result();
  if (sized) co_return;
  (void)co_await file.truncate(0).result();
  co_await sized.error();
}

Result<> check_same(const FileInfo& found, const CreatedFile& created) {
  if (found.device == created.device && found.inode == created.inode) return {};
  return Error(Errc::busy, "'" + created.path + "' is another program's file by now");
}

// Under the lock: nobody else uses it.
Task<> undo_now(File& file, const CreatedFile& created) {
  co_await take_new(file);
  const FileInfo info = co_await file.stat();
  co_await unwrap(check_same(info, created));
  if (created.replaced == Replaced::nothing) co_await fs::unlink(file.reactor(), file.path());
  else co_await file.truncate(0);
}

Task<> remove_unused(File& file) {
  co_await lock_as_maker(file);
  co_await take_new(file);
  co_await fs::unlink(file.reactor(), file.path());
}

Error being_made(const std::string& path) {
  return Error(Errc::busy, "'" + path + "' is being made by another program; let it end first");
}

// One that was just made: another may take it for what an earlier run has left, until it is locked.
Task<CreatedFile> take_partial(File& file) {
  co_await lock_as_maker(file);
  const FileInfo info = co_await file.stat();
  CreatedFile created{file.path(), info.device, info.inode, Replaced::nothing};
  const auto named = co_await check_named(file.reactor(), created).result();
  if (!named) co_await being_made(file.path());
  co_return std::move(created);
}

// What an earlier run has left under a name.
Task<> remove_left(Reactor& reactor, const std::string& path) {
  OpenFlags flags;
  flags.write = flags.no_follow = true;
  auto opened = co_await File::open(reactor, path, flags).result();
  if (!opened && opened.error().code() == Errc::not_found) co_return;
  if (!opened && opened.error().to_errno() == ELOOP)
    co_await Error(Errc::exists, "'" + path + "' is a symbolic link, through which nothing is written; remove it");
  if (!opened) co_await could_not("create", opened.error(), path);
  const Result<> removed = co_await remove_unused(*opened).result();
  co_await opened->close();
  co_await unwrap(removed);
}

}  // namespace

// A writer lets nobody else write or resize, and neither does a reader, whose image must not change
// under it; force_share says it does not mind.
Permissions lock_permissions(const FileOptions& options) {
  constexpr P::Set others_read = P::consistent_read | P::write_unchanged;
  if (!options.read_only) return {P::consistent_read | P::write | P::resize, others_read};
  return {P::consistent_read, options.force_share ? P::all : others_read};
}

Task<std::unique_ptr<BlockDriver>> open_file(Reactor& reactor, FileOptions options) {
  return open_storage(reactor, std::move(options), "file", Type::regular);
}

Task<std::unique_ptr<BlockDriver>> open_host_device(Reactor& reactor, FileOptions options) {
  return open_storage(reactor, std::move(options), "host_device", Type::block_device);
}

Task<CreatedFile> create_file(Reactor& reactor, std::string path, std::uint64_t size,
                              FilePreallocation preallocation, CancelToken interrupted) {
  if (path.empty())
    co_await Error(Errc::invalid_argument, "The 'file' block driver requires a file name");
  if (size > max_disk_size)
    co_await Error(Errc::out_of_range, "Could not create '" + path + "': Image size is too large");
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  Result<File> opened = co_await File::open(reactor, path, flags).result();
  const bool made = opened.ok();
  if (!made && opened.error().code() == Errc::exists) {
    flags.create = flags.exclusive = false;
    opened = co_await File::open(reactor, path, flags).result();
  }
  if (!opened) co_await could_not("create", opened.error(), path);
  File file = *std::move(opened);
  CreatedFile created{.path = path};
  if (made) created.replaced = Replaced::nothing;
  Result<> filled = co_await fill_new(file, size, preallocation, interrupted, created).result();
  if (filled && made) filled = co_await sync_name(reactor, path).result();
  const Result<> closed = co_await file.close().result();
  if (filled && closed) co_return created;
  // Another's lock on what we have made: it is in use now, and stays.
  const bool taken = !filled && filled.error().code() == Errc::busy;
  if (made && !taken) (void)co_await fs::unlink(reactor, path).result();
  if (!filled) co_await filled.error();
  co_await closed.error();
  co_return created;
}

Task<CreatedFile> create_partial(Reactor& reactor, std::string path, File& maker) {
  co_await remove_left(reactor, path);
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  auto opened = co_await File::open(reactor, path, flags).result();
  if (!opened && opened.error().code() == Errc::exists) co_await being_made(path);
  if (!opened) co_await could_not("create", opened.error(), path);
  const Result<CreatedFile> taken = co_await take_partial(*opened).result();
  if (!taken) (void)co_await opened->close().result();
  co_await unwrap(taken);
  maker = *std::move(opened);
  co_return *taken;
}

Task<Replaced> check_overwritable(Reactor& reactor, std::string path) {
  const bool there = co_await fs::exists(reactor, path);
  if (!there) co_return Replaced::nothing;
  OpenFlags flags;
  flags.write = true;
  Result<File> opened = co_await File::open(reactor, path, flags).result();
  if (!opened) co_await could_not("create", opened.error(), path);
  File file = *std::move(opened);
  const Result<> usable = co_await take_new(file).result();
  const Result<FileInfo> info = co_await file.stat().result();      // under the lock: who had it may have filled the file
  (void)co_await file.close().result();
  co_await unwrap(usable);
  co_await unwrap(info);
  co_return info->type == Type::regular && info->size == 0 ? Replaced::empty_file : Replaced::content;
}

Task<> check_named(Reactor& reactor, CreatedFile created) {
  const FileInfo found = co_await fs::stat(reactor, created.path);
  co_await unwrap(check_same(found, created));
}

Task<> undo_create_file(Reactor& reactor, CreatedFile created) {
  if (created.replaced == Replaced::content) co_return;
  OpenFlags flags;
  flags.write = true;
  flags.no_follow = created.replaced == Replaced::nothing;
  File file = co_await File::open(reactor, created.path, flags);
  const Result<> undone = co_await undo_now(file, created).result();
  co_await file.close();
  co_await unwrap(undone);
}

void leave_if_taken(CreatedFile& created, const Error& why) {
  if (why.code() == Errc::busy) created = CreatedFile();
}

}  // namespace tidemark
