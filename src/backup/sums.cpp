#include "backup/sums.hpp"

#include <algorithm>

#include "io/aligned.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t magic = 0x0100534d5553'4d54;     // "TMSUMS\0\1", little-endian
constexpr std::size_t header_size = 24, run_header_size = 16;
constexpr std::uint32_t end_kind = 2;
constexpr std::size_t buffer_max = 1 * MiB;

void put_run_header(std::byte* to, std::uint64_t first, std::uint32_t count, std::uint32_t kind) {
  store_le(to, first);
  store_le(to + 8, count);
  store_le(to + 12, kind);
}

}  // namespace

Task<SumsWriter> SumsWriter::create(Reactor& reactor, std::string path, std::uint64_t disk_size,
                                    std::uint32_t granularity) {
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  File file = co_await File::open(reactor, std::move(path), flags);
  co_return SumsWriter(std::move(file), disk_size, granularity);
}

Task<SumsWriter> SumsWriter::fill(Reactor& reactor, std::string path, std::uint64_t disk_size,
                                  std::uint32_t granularity) {
  OpenFlags flags;
  flags.write = flags.create = true;
  File file = co_await File::open(reactor, std::move(path), flags);
  co_return SumsWriter(std::move(file), disk_size, granularity);
}

SumsWriter::SumsWriter(File file, std::uint64_t disk_size, std::uint32_t granularity) : file_(std::move(file)) {
  std::byte header[header_size];
  store_le(header, magic);
  store_le<std::uint64_t>(header + 8, granularity);
  store_le(header + 16, disk_size);
  pending_.assign(header, header + header_size);
}

Task<> SumsWriter::add_data(std::uint64_t granule, Digest digest) {
  const bool joins = run_.count != 0 && run_.kind == SumsRun::Kind::data && run_.end() == granule &&
                     run_.count < SumsRun::data_count_max;
  if (!joins) {
    co_await end_run();
    run_.first = granule;
    run_.kind = SumsRun::Kind::data;
  }
  run_.digests.push_back(digest);
  ++run_.count;
}

Task<> SumsWriter::add_zero(std::uint64_t first, std::uint64_t count) {
  while (count != 0) {
    const std::uint64_t part = std::min<std::uint64_t>(count, UINT32_MAX);
    const bool joins = run_.count != 0 && run_.kind == SumsRun::Kind::zero && run_.end() == first &&
                       run_.count + part <= UINT32_MAX;
    if (!joins) {
      co_await end_run();
      run_.first = first;
      run_.kind = SumsRun::Kind::zero;
    }
    run_.count += part;
    first += part;
    count -= part;
  }
}

Task<> SumsWriter::end_run() {
  if (run_.count == 0) co_return;
  std::vector<std::byte> bytes(run_header_size + run_.digests.size() * Digest::size);
  put_run_header(bytes.data(), run_.first, static_cast<std::uint32_t>(run_.count),
                 static_cast<std::uint32_t>(run_.kind));
  std::byte* at = bytes.data() + run_header_size;
  for (const Digest& digest : run_.digests) {
    digest.store(at);
    at += Digest::size;
  }
  run_ = {};
  co_await append(bytes);
}

Task<> SumsWriter::append(Bytes bytes) {
  pending_.insert(pending_.end(), bytes.begin(), bytes.end());
  if (pending_.size() >= buffer_max) co_await write_out();
}

Task<> SumsWriter::write_out() {
  digest_.update(pending_);
  co_await file_.write(written_, Buffers(pending_));
  written_ += pending_.size();
  pending_.clear();
}

Task<Digest> SumsWriter::finish() {
  co_await end_run();
  std::byte end[run_header_size];
  put_run_header(end, 0, 0, end_kind);
  const Bytes end_bytes(end);
  co_await append(end_bytes);
  co_await write_out();
  co_await file_.sync();
  co_return digest_.digest();
}

Error SumsReader::broken(std::string_view why) const {
  return Error(Errc::corrupt, "'" + file_.path() + "': " + std::string(why));
}

Task<> SumsReader::read_exactly(MutableBytes into) {
  if (!fits(at_, into.size(), size_)) co_await broken("ends too early");
  co_await file_.read(at_, into);
  at_ += into.size();
}

Task<SumsReader> SumsReader::open(Reactor& reactor, std::string path, std::uint64_t disk_size,
                                  std::uint32_t granularity, std::optional<Digest> digest) {
  SumsReader reader;
  const FileInfo info = co_await fs::stat(reactor, path);
  if (info.type != FileInfo::Type::regular) co_await Error(Errc::corrupt, "'" + path + "' is not a regular file");
  const OpenFlags read_only;
  reader.file_ = co_await File::open(reactor, std::move(path), read_only);
  auto begun = co_await reader.begin(disk_size, granularity, digest).result();
  if (!begun) {
    (void)co_await reader.file_.close().result();
    co_await begun.error();
  }
  co_return std::move(reader);
}

Task<> SumsReader::begin(std::uint64_t disk_size, std::uint32_t granularity, std::optional<Digest> digest) {
  const FileInfo info = co_await file_.stat();
  size_ = info.size;
  granules_ = div_up(disk_size, granularity);
  digest_ = co_await digest_of_file();
  if (digest && !(digest_ == *digest))
    co_await broken("is not the file its manifest names: the digest differs");
  std::byte header[header_size];
  const MutableBytes header_bytes(header);
  co_await read_exactly(header_bytes);
  if (load_le<std::uint64_t>(header) != magic) co_await broken("is not a sums file");
  if (load_le<std::uint64_t>(header + 8) != granularity || load_le<std::uint64_t>(header + 16) != disk_size)
    co_await broken("is of another disk");
  co_await next();
}

Task<Digest> SumsReader::digest_of_file() {
  DigestStream stream;
  AlignedBuffer buffer(buffer_max);
  for (std::uint64_t at = 0; at < size_;) {
    const MutableBytes part = buffer.bytes().first(std::min<std::uint64_t>(buffer.size(), size_ - at));
    co_await file_.read(at, part);
    stream.update(part);
    at += part.size();
  }
  co_return stream.digest();
}

Task<> SumsReader::next() {
  const std::uint64_t from = run_.end();
  std::byte header[run_header_size];
  const MutableBytes header_bytes(header);
  co_await read_exactly(header_bytes);
  const auto kind = load_le<std::uint32_t>(header + 12);
  run_ = {};
  if (kind == end_kind) co_return;
  run_.first = load_le<std::uint64_t>(header);
  run_.count = load_le<std::uint32_t>(header + 8);
  run_.kind = static_cast<SumsRun::Kind>(kind);
  if (kind > 1 || run_.count == 0 || run_.first < from || !fits(run_.first, run_.count, granules_))
    co_await broken("holds a run that cannot be");
  if (run_.kind == SumsRun::Kind::zero) co_return;
  if (run_.count > SumsRun::data_count_max) co_await broken("holds a run that is too long");
  std::vector<std::byte> bytes(run_.count * Digest::size);
  co_await read_exactly(bytes);
  for (std::size_t at = 0; at < bytes.size(); at += Digest::size) run_.digests.push_back(Digest::load(bytes.data() + at));
}

}  // namespace tidemark
