#include "format/qcow2/offline.hpp"

#include <algorithm>
#include <cerrno>

#include "format/qcow2/checker.hpp"

namespace tidemark::qcow2 {
namespace {

struct Start {
  Header header;
  std::vector<std::byte> cluster;          // the first, whole
  std::uint64_t name_at = 0, name_length = 0;
};

Task<Start> read_start(Edge& file) {
  AlignedBuffer sector(std::min<std::uint64_t>(file.size(), sector_size));
  co_await file.read(0, Buffers(sector.bytes()));
  Start start;
  start.cluster.resize(co_await unwrap(first_cluster_size(sector.bytes())));
  const Buffers all{MutableBytes(start.cluster)};
  const std::uint64_t there = std::min<std::uint64_t>(file.size(), all.size());
  co_await file.read(0, all.first(there));
  start.header = co_await unwrap(parse_header(Bytes(start.cluster).first(there), file.size()));
  start.name_at = load_be<std::uint64_t>(start.cluster.data() + 8);
  start.name_length = start.name_at != 0 ? load_be<std::uint32_t>(start.cluster.data() + 16) : 0;
  co_return std::move(start);
}

void append(std::vector<std::byte>& to, ExtensionType type, Bytes data) {
  std::byte head[8];
  store_be(head, static_cast<std::uint32_t>(type));
  store_be(head + 4, static_cast<std::uint32_t>(data.size()));
  to.insert(to.end(), head, head + 8);
  to.insert(to.end(), data.begin(), data.end());
  to.resize(align_up(to.size(), 8));
}

// All extensions as they are, but for the backing format, which keeps its place.
std::vector<std::byte> new_extensions(const Start& start, const std::string& format) {
  std::vector<std::byte> extensions;
  bool said = format.empty();
  const std::byte* cluster = start.cluster.data();
  const std::uint64_t end = start.name_at != 0 ? start.name_at : start.cluster.size();
  std::uint64_t at = start.header.header_length;
  for (; at + 8 <= end;) {
    const auto type = static_cast<ExtensionType>(load_be<std::uint32_t>(cluster + at));
    const std::uint64_t length = load_be<std::uint32_t>(cluster + at + 4);
    if (type == ExtensionType::end) break;
    if (type != ExtensionType::backing_format) append(extensions, type, Bytes(cluster + at + 8, length));
    else if (!std::exchange(said, true)) append(extensions, type, as_bytes(format));
    at += 8 + align_up(length, 8);
  }
  if (said) return extensions;
  std::vector<std::byte> first;
  append(first, ExtensionType::backing_format, as_bytes(format));
  first.insert(first.end(), extensions.begin(), extensions.end());
  return first;
}

// Behind the extensions and their end mark; beside the old name where there is room, so that this stays readable until
// the header's fields change.
std::uint64_t place_of_name(const Start& start, std::uint64_t behind, std::uint64_t length) {
  const Range old{start.name_at, start.name_length}, first{behind, length};
  const std::uint64_t after = align_up(old.end(), 8);
  const bool fits_after = after >= behind && fits(after, length, start.cluster.size());
  return first.overlaps(old) && fits_after ? after : behind;
}

Result<std::vector<std::byte>> new_cluster(const Start& start, const std::string& name, const std::string& format) {
  const Error too_long(Errc::invalid_argument, "Backing file name too long");
  std::vector<std::byte> cluster = start.cluster;
  const std::vector<std::byte> extensions = new_extensions(start, format);
  const std::uint64_t at = start.header.header_length, behind = at + extensions.size() + 8;
  if (name.size() > name_bytes_max || behind > cluster.size()) return too_long;
  const std::uint64_t place = name.empty() ? 0 : place_of_name(start, behind, name.size());
  if (!fits(place, name.size(), cluster.size())) return too_long;
  std::copy(extensions.begin(), extensions.end(), cluster.begin() + static_cast<std::ptrdiff_t>(at));
  std::fill_n(cluster.begin() + static_cast<std::ptrdiff_t>(behind - 8), 8, std::byte{});
  std::copy_n(as_bytes(name).data(), name.size(), cluster.begin() + static_cast<std::ptrdiff_t>(place));
  store_be(cluster.data() + 8, place);
  store_be(cluster.data() + 16, static_cast<std::uint32_t>(name.size()));
  return cluster;
}

Task<> clear_l1(Edge& file, const Header& header) {
  const Range table{header.l1_at.value, header.l1_entries * entry_bytes};
  AlignedBuffer zeroes(std::min<std::uint64_t>(table.length, 1 * MiB));
  Buffers(zeroes.bytes()).fill_zero();
  for (std::uint64_t done = 0; done < table.length; done += zeroes.size()) {
    const std::uint64_t length = std::min<std::uint64_t>(zeroes.size(), table.length - done);
    co_await file.write(table.offset + done, Buffers(zeroes.bytes().first(length)));
  }
  co_await file.flush();
}

// What nothing refers to any more is given back to the file system, and the file ends where the image does.
Task<> give_back(Edge& file) {
  Start start = co_await read_start(file);
  CheckOptions options;
  CheckReport report;
  Checker checker(file, start.header, options, report);
  co_await checker.run();
  if (!report.clean()) co_return;
  const Geometry& g = checker.geometry();
  CheckCounts& counts = checker.counts();
  for (std::uint64_t first = 0; first < checker.end_cluster();) {
    std::uint64_t end = first;
    while (end < checker.end_cluster() && counts[end] == 0) ++end;
    const Range unused = g.bytes_of({{first}, end - first});
    if (!unused.empty()) co_await file.discard(unused);
    first = end + 1;
  }
  const auto cut = co_await file.truncate(report.image_end).result();
  if (!cut && cut.error().code() != Errc::unsupported) co_await cut.error();
}

}  // namespace

Task<> change_backing(Edge& file, std::string name, std::string format) {
  const Start start = co_await read_start(file);
  if (start.header.has(Autoclear::data_file_raw) && !name.empty())
    co_await Error(Errc::invalid_argument, "qcow2: a raw external data file cannot have a backing file");
  std::vector<std::byte> cluster = co_await unwrap(new_cluster(start, name, format));
  const Buffers all{MutableBytes(cluster)};
  if (all.size() > sector_size) {
    co_await file.write(sector_size, all.from(sector_size));
    co_await file.flush();
  }
  co_await file.write(0, all.first(sector_size));
  co_await file.flush();
}

Task<> empty_image(Edge& file) {
  const Start start = co_await read_start(file);
  if (start.header.has(Incompatible::data_file))
    co_await Error(Errc::unsupported, "qcow2: an image with an external data file cannot be emptied");
  co_await clear_l1(file, start.header);
  CheckOptions options;
  options.repair = Repair::all;
  const CheckReport report = co_await check_image(file, std::move(options));
  if (!report.clean()) co_await Error(Errc::corrupt, "qcow2: the image is damaged");
  co_await give_back(file);
  co_await file.flush();
}

}  // namespace tidemark::qcow2
