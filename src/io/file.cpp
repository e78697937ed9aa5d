#include "io/file.hpp"

#include <algorithm>
#include <cerrno>

namespace tidemark {
namespace {

// An operation of the rare kinds, with its extra part beside it.
struct RareOp {
  explicit RareOp(IoOp::Kind kind, Handle handle = Handle::none) : op(kind, handle) {
    op.extra = &extra;
  }
  RareOp(const RareOp&) = delete;
  IoOp::Extra extra;
  IoOp op;
};

Error failed_on(std::string_view verb, std::string_view path, std::int64_t result) {
  std::string what(verb);
  what.append(" '").append(path).append("'");
  return Error::from_errno(static_cast<int>(-result), what);
}

std::string_view verb_of(AllocateMode mode) {
  switch (mode) {
    case AllocateMode::punch_hole: return "punch a hole in";
    case AllocateMode::discard: return "discard a part of";
    case AllocateMode::zero_range: return "write zeroes to";
    case AllocateMode::preallocate: return "preallocate";
  }
  return "allocate";
}

// A short direct transfer that stops inside a sector has met the end of the file: to go on from
// there would be misaligned.  Where sectors are large, so it would be at smaller multiples.
constexpr std::uint64_t sector = 512, sector_largest = 4096;

}  // namespace

Task<File> File::open(Reactor& reactor, std::string path, OpenFlags flags) {
  RareOp rare(IoOp::Kind::open);
  rare.extra.path = path;
  rare.extra.open = flags;
  const std::int64_t result = co_await reactor.perform(rare.op);
  if (result < 0) co_await failed_on("open", path, result);
  File file;
  file.reactor_ = &reactor;
  file.handle_ = static_cast<Handle>(result);
  file.direct_ = flags.direct;
  file.path_ = std::move(path);
  co_return file;
}

File::File(File&& o) noexcept
    : reactor_(o.reactor_),
      handle_(std::exchange(o.handle_, Handle::none)),
      direct_(o.direct_),
      path_(std::move(o.path_)) {}

File& File::operator=(File&& o) noexcept {
  TM_ASSERT(!is_open());
  reactor_ = o.reactor_;
  handle_ = std::exchange(o.handle_, Handle::none);
  direct_ = o.direct_;
  path_ = std::move(o.path_);
  return *this;
}

File::~File() { TM_ASSERT(!is_open()); }         // close() was not awaited

Error File::failed(std::string_view verb, std::int64_t result) const {
  return failed_on(verb, path_, result);
}

Error File::ends_at(std::uint64_t offset) const {
  return Error(Errc::io, "read '" + path_ + "': it ends before the byte at " + std::to_string(offset) + " now; make it as large as it was",
               EIO);
}

Task<> File::read(std::uint64_t offset, Buffers into, std::uint64_t there) {
  const std::uint64_t end = offset + there;
  while (!into.empty()) {
    IoOp op(IoOp::Kind::read, handle_);
    op.offset = offset;
    op.buffers = into;
    const std::int64_t result = co_await reactor_->perform(op);
    if (result < 0) co_await failed("read", result);
    const auto got = static_cast<std::uint64_t>(result);
    into = into.from(got);
    offset += got;
    bool at_end = got == 0 || (direct_ && !is_aligned(offset, sector));
    if (direct_ && !at_end && !into.empty() && !is_aligned(offset, sector_largest)) {
      const FileInfo info = co_await stat();
      at_end = offset >= info.size;
    }
    if (at_end) {
      if (offset < end) co_await ends_at(offset);
      into.fill_zero();
      co_return;
    }
  }
}

Task<> File::write(std::uint64_t offset, Buffers from, bool durable) {
  while (!from.empty()) {
    IoOp op(IoOp::Kind::write, handle_);
    op.offset = offset;
    op.buffers = from;
    op.durable = durable;
    const std::int64_t result = co_await reactor_->perform(op);
    if (result < 0) co_await failed("write", result);
    if (result == 0) co_await failed("write", -ENOSPC);   // a device's end: nothing was taken
    from = from.from(static_cast<std::uint64_t>(result));
    offset += static_cast<std::uint64_t>(result);
  }
}

Task<> File::write_back(PageCache after) {
  IoOp op(IoOp::Kind::write_back, handle_);
  op.drop = after == PageCache::drop;
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed("write back", result);
}

Task<> File::sync() {
  IoOp op(IoOp::Kind::sync, handle_);
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed("sync", result);
}

Task<> File::allocate(AllocateMode mode, Range range) {
  IoOp op(IoOp::Kind::allocate, handle_);
  op.allocate = mode;
  op.offset = range.offset;
  op.length = range.length;
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed(verb_of(mode), result);
}

Task<FileExtent> File::extent(std::uint64_t offset) {
  RareOp rare(IoOp::Kind::extent, handle_);
  rare.op.offset = offset;
  const std::int64_t result = co_await reactor_->perform(rare.op);
  if (result < 0) co_await failed("find the extents of", result);
  co_return rare.extra.extent;
}

Task<> File::truncate(std::uint64_t size) {
  IoOp op(IoOp::Kind::truncate, handle_);
  op.length = size;
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed("resize", result);
}

Task<FileInfo> File::stat() {
  RareOp rare(IoOp::Kind::stat, handle_);
  const std::int64_t result = co_await reactor_->perform(rare.op);
  if (result < 0) co_await failed("stat", result);
  co_return rare.extra.info;
}

Task<> File::lock(LockRequest request) {
  RareOp rare(IoOp::Kind::lock, handle_);
  rare.extra.lock = request;
  const std::int64_t result = co_await reactor_->perform(rare.op);
  if (result == -EAGAIN || result == -EACCES) {
    std::string message = "lock '" + path_ + "': held by another process";
    co_await Error(Errc::busy, std::move(message), EAGAIN);
  }
  if (result < 0) co_await failed("lock", result);
}

Task<> File::close() {
  if (!is_open()) co_return;
  IoOp op(IoOp::Kind::close, std::exchange(handle_, Handle::none));
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed("close", result);
}

namespace fs {
namespace {

// The operations that have a path and answer 0 or an errno.
Task<> on_path(Reactor& reactor, IoOp::Kind kind, std::string_view verb, std::string path) {
  RareOp rare(kind);
  rare.extra.path = path;
  const std::int64_t result = co_await reactor.perform(rare.op);
  if (result < 0) co_await failed_on(verb, path, result);
}

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

std::string temporary_beside(Reactor& reactor, const std::string& path) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string name = path + ".tmp-";
  std::uint64_t number = reactor.backend().random();
  for (int i = 0; i < 16; ++i, number >>= 4) name += digits[number & 15];
  return name;
}

Task<> write_and_sync(File& file, const std::string& content) {
  co_await file.write(0, Buffers::of_const(as_bytes(content)));
  co_await file.sync();
}

Task<> write_new(Reactor& reactor, std::string path, const std::string& content) {
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  File file = co_await File::open(reactor, std::move(path), flags);
  const Result<> written = co_await write_and_sync(file, content).result();
  const Result<> closed = co_await file.close().result();
  if (!written) co_await written.error();
  if (!closed) co_await closed.error();
}

Task<std::string> read_to_end(File& file, std::uint64_t size_max) {
  std::string content;
  for (;;) {
    const std::size_t have = content.size();
    content.resize(std::min<std::uint64_t>(have + 64 * KiB, size_max + 1));
    IoOp op(IoOp::Kind::read, file.handle());
    op.offset = have;
    op.buffers = std::as_writable_bytes(std::span(content)).subspan(have);
    const std::int64_t result = co_await file.reactor().perform(op);
    if (result < 0) co_await failed_on("read", file.path(), result);
    content.resize(have + static_cast<std::size_t>(result));
    if (result == 0) co_return content;
    if (content.size() > size_max) {
      std::string message = "read '" + file.path() + "': larger than ";
      message += std::to_string(size_max) + " bytes";
      co_await Error(Errc::out_of_range, std::move(message));
    }
  }
}

}  // namespace

Task<FileInfo> stat(Reactor& reactor, std::string path) {
  RareOp rare(IoOp::Kind::stat);
  rare.extra.path = path;
  const std::int64_t result = co_await reactor.perform(rare.op);
  if (result < 0) co_await failed_on("stat", path, result);
  co_return rare.extra.info;
}

Task<bool> exists(Reactor& reactor, std::string path) {
  const Result<FileInfo> info = co_await stat(reactor, std::move(path)).result();
  if (info) co_return true;
  // Nothing can have a name that is too long.
  if (info.error().code() != Errc::not_found && info.error().os_errno() != ENAMETOOLONG) co_await info.error();
  co_return false;
}

Task<> rename(Reactor& reactor, std::string from, std::string to, bool no_replace) {
  RareOp rare(IoOp::Kind::rename);
  rare.op.no_replace = no_replace;
  rare.extra.path = from;
  rare.extra.path2 = to;
  const std::int64_t result = co_await reactor.perform(rare.op);
  if (result == -EEXIST) co_await failed_on("rename to", to, result);
  if (result < 0) co_await failed_on("rename", from, result);
}

Task<> unlink(Reactor& reactor, std::string path) {
  co_await on_path(reactor, IoOp::Kind::unlink, "unlink", std::move(path));
}

Task<> mkdir(Reactor& reactor, std::string path) {
  co_await on_path(reactor, IoOp::Kind::mkdir, "mkdir", std::move(path));
}

Task<> rmdir(Reactor& reactor, std::string path) {
  co_await on_path(reactor, IoOp::Kind::rmdir, "rmdir", std::move(path));
}

Task<> sync_dir(Reactor& reactor, std::string path) {
  co_await on_path(reactor, IoOp::Kind::sync_dir, "sync", std::move(path));
}

Task<std::vector<std::string>> list(Reactor& reactor, std::string path) {
  RareOp rare(IoOp::Kind::list);
  rare.extra.path = path;
  const std::int64_t result = co_await reactor.perform(rare.op);
  if (result < 0) co_await failed_on("list", path, result);
  std::sort(rare.extra.names.begin(), rare.extra.names.end());
  co_return std::move(rare.extra.names);
}

Task<std::string> read_all(Reactor& reactor, std::string path, std::uint64_t size_max) {
  TM_ASSERT(size_max < max_disk_size);
  OpenFlags flags;
  File file = co_await File::open(reactor, std::move(path), flags);
  Result<std::string> content = co_await read_to_end(file, size_max).result();
  co_await file.close();
  if (!content) co_await content.error();
  co_return *std::move(content);
}

Task<> replace(Reactor& reactor, std::string path, std::string content) {
  const std::string temporary = temporary_beside(reactor, path);
  Result<> done = co_await write_new(reactor, temporary, content).result();
  if (done) done = co_await rename(reactor, temporary, path).result();
  if (!done) {
    (void)co_await unlink(reactor, temporary).result();
    co_await done.error();
  }
  co_await sync_dir(reactor, directory_of(path));
}

}  // namespace fs
}  // namespace tidemark
