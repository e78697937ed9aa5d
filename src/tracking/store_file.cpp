#include "tracking/store_file.hpp"

#include <cerrno>
#include <filesystem>

#include "tracking/checksum.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t piece_bytes = 256 * KiB;

constexpr Duration lock_pause = std::chrono::milliseconds(10);

Task<> lock(File& file, bool reading) {
  LockRequest request;
  request.mode = reading ? LockRequest::Mode::shared : LockRequest::Mode::exclusive;
  request.length = 1;
  if (reading) co_return co_await file.lock(request);
  const Instant until = file.reactor().now() + StoreFile::lock_patience;
  while (file.reactor().now() < until) {
    const Result<> locked = co_await file.lock(request).result();
    if (locked) co_return;
    if (locked.error().code() != Errc::busy) co_await locked.error();
    co_await file.reactor().sleep(lock_pause);
  }
  co_await Error(Errc::busy, "tracking store '" + file.path() + "' is in use by another node or process");
}

}  // namespace

// To open or read anything else may wait for ever, or change it.
Task<FileInfo> StoreFile::check_regular(Task<FileInfo> stat) {
  const FileInfo info = co_await std::move(stat);
  if (info.type != FileInfo::Type::regular) co_await Error(Errc::invalid_argument, "'" + path_ + "' is no tracking store");
  co_return info;
}

Task<> StoreFile::open(Reactor& reactor, std::string path, Use use, Links links) {
  path_ = std::move(path);
  const auto there = co_await check_regular(fs::stat(reactor, path_)).result();
  if (!there && (use != Use::make || there.error().code() != Errc::not_found)) co_await there.error();
  for (;;) {
    co_await open_locked(reactor, use, links);
    // The one who had the lock before may have removed the file meanwhile.
    const bool current = co_await named(reactor);
    if (current) co_return;
    co_await close();
  }
}

Task<> StoreFile::open_locked(Reactor& reactor, Use use, Links links) {
  OpenFlags flags;
  flags.direct = true;
  flags.no_follow = links == Links::refuse;
  flags.write = use == Use::write || use == Use::make;
  flags.create = use == Use::make;
  Result<File> opened = co_await File::open(reactor, path_, flags).result();
  if (!opened && opened.error().os_errno() == EINVAL) {      // a file system without direct I/O
    flags.direct = false;
    opened = co_await File::open(reactor, path_, flags).result();
  }
  if (!opened && opened.error().os_errno() == ELOOP && links == Links::refuse)
    co_await Error(Errc::permission, "'" + path_ + "' is a symbolic link: name the 'store' that it leads to", ELOOP);
  if (!opened) co_await opened.error();
  file_ = *std::move(opened);
  const auto regular = co_await check_regular(file_.stat()).result();
  Result<> fit = regular ? Result<>() : Result<>(regular.error());
  if (fit && use != Use::look) fit = co_await lock(file_, use == Use::read).result();
  if (fit) co_return;
  co_await close();
  co_await fit.error();
}

Task<bool> StoreFile::try_share() {
  const Result<> locked = co_await lock(file_, true).result();
  if (locked) co_return true;
  if (locked.error().code() != Errc::busy) co_await locked.error();
  co_return false;
}

Task<bool> StoreFile::named(Reactor& reactor) {
  const Result<FileInfo> mine = co_await file_.stat().result();
  const Result<FileInfo> found = co_await fs::stat(reactor, path_).result();
  if (!mine || (!found && found.error().code() != Errc::not_found)) {
    co_await close();
    if (!mine) co_await mine.error();
    co_await found.error();
  }
  co_return found && mine->device == found->device && mine->inode == found->inode;
}

Task<> StoreFile::close() {
  if (file_.is_open()) co_await file_.close();
}

Task<AlignedBuffer> StoreFile::read(Range range) {
  AlignedBuffer buffer(align_up(range.length, Superblock::bytes));
  co_await file_.read(range.offset, buffer.bytes());
  co_return std::move(buffer);
}

// A store's first blocks, or what they were when it was cut off while they were being written.
Task<bool> StoreFile::looks_ours(std::uint64_t log_bytes) {
  Superblock shape;
  shape.log_bytes = log_bytes;
  const std::uint64_t size = (co_await check_regular(file_.stat())).size, formatted = shape.data_start();
  if (size == 0) co_return true;
  const Range start{0, std::min<std::uint64_t>(size, piece_bytes)};
  const AlignedBuffer first = co_await read(start);
  for (std::uint64_t at = 0; at < Superblock::bytes * Superblock::copies; at += Superblock::bytes)
    if (at < start.length && Superblock::is_signed(first.bytes().subspan(at, Superblock::bytes))) co_return true;
  if (size > formatted) co_return false;
  for (Range piece = start; !piece.empty(); piece = Range{piece.end(), std::min<std::uint64_t>(size - piece.end(), piece_bytes)}) {
    const AlignedBuffer bytes = co_await read(piece);
    if (!is_zero(bytes.bytes().first(piece.length))) co_return false;
  }
  co_return true;
}

Task<> StoreFile::check_ours(const Superblock& to_be) {
  const ImageIdentity& image = to_be.image;
  const FileInfo info = co_await check_regular(file_.stat());
  const bool is_image = !image.is_device && info.device == image.device && info.inode == image.inode;
  bool ours = !is_image;
  if (ours) ours = co_await looks_ours(to_be.log_bytes);
  if (ours) co_return;
  const std::string why = is_image ? "is the image itself: name" : "exists and is no tracking store: remove it, or name";
  co_await Error(Errc::exists, "'" + path_ + "' " + why + " another 'store'");
}

Task<std::optional<Superblock>> StoreFile::read_root() {
  const Range both{0, Superblock::bytes * Superblock::copies};
  const AlignedBuffer blocks = co_await read(both);
  std::optional<Superblock> best;
  for (std::uint64_t copy = 0; copy < Superblock::copies; ++copy) {
    const Bytes block = blocks.bytes().subspan(copy * Superblock::bytes, Superblock::bytes);
    Result<std::optional<Superblock>> decoded = Superblock::decode(block);
    if (!decoded && decoded.error().code() == Errc::corrupt) continue;       // is none
    std::optional<Superblock> root = co_await unwrap(std::move(decoded));
    if (!root || (best && root->version <= best->version)) continue;
    best = std::move(root);
    next_copy_ = 1 - copy;
  }
  co_return std::move(best);
}

Task<> StoreFile::write_root(const Superblock& root, bool durable) {
  const std::vector<std::byte> block = root.encode();
  AlignedBuffer buffer(Superblock::bytes);
  std::copy(block.begin(), block.end(), buffer.data());
  for (unsigned written = 0; written < Superblock::copies; ++written) {
    co_await file_.write(next_copy_ * Superblock::bytes, buffer.bytes(), durable);
    next_copy_ = 1 - next_copy_;
  }
}

Task<> StoreFile::format(std::uint64_t log_bytes) {
  Superblock shape;
  shape.log_bytes = log_bytes;
  AlignedBuffer zeroes(piece_bytes);
  Buffers(zeroes.bytes()).fill_zero();
  Superblock::sign(zeroes.bytes());
  for (std::uint64_t at = 0; at < shape.data_start(); at += piece_bytes) {
    const std::size_t length = std::min<std::uint64_t>(piece_bytes, shape.data_start() - at);
    co_await file_.write(at, zeroes.bytes().first(length));
    Buffers(zeroes.bytes()).fill_zero();
  }
  co_await file_.sync();
  co_await fs::sync_dir(file_.reactor(), directory());
}

Task<Catalogue> StoreFile::read_catalogue(const Superblock& root) {
  const FileInfo info = co_await file_.stat();
  const std::uint64_t end = std::max(info.size, root.data_start());
  const Range data{root.data_start(), end - root.data_start()};
  std::optional<Error> why;
  for (const std::uint64_t at : root.catalogue) {
    const Range place{at, root.catalogue_bytes};
    if (!fits(place.offset, place.length, end)) continue;
    const Result<AlignedBuffer> buffer = co_await read(place).result();
    if (!buffer) {
      why = buffer.error();
      continue;
    }
    const Bytes bytes = buffer->bytes().first(place.length);
    if (checksum(bytes, root.store_id) != root.catalogue_sum) continue;
    auto catalogue = Catalogue::decode(bytes, data);
    if (!catalogue) co_await catalogue.error().with_context("tracking store '" + path_ + "'");
    co_return *std::move(catalogue);
  }
  if (!why) why = Error(Errc::corrupt, "tracking store '" + path_ + "': its catalogue is damaged");
  co_await *why;
}

Task<> StoreFile::unlink() {
  const Result<> gone = co_await fs::unlink(file_.reactor(), path_).result();
  if (!gone && gone.error().code() != Errc::not_found) co_await gone.error();
  co_await fs::sync_dir(file_.reactor(), directory());
}

std::string StoreFile::directory() const {
  const std::string parent = std::filesystem::path(path_).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace tidemark::tracking
