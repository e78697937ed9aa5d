#include "format/qcow2/tables/snapshot_table.hpp"

#include <algorithm>

#include "base/bytes.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t table_bytes_max = 64 * MiB;
constexpr std::size_t fixed_bytes = 40, known_extra_bytes = 24;

class Reader {
 public:
  explicit Reader(Bytes bytes) : bytes_(bytes) {}
  template <class T>
  T number() {
    const T value = load_be<T>(bytes_.data());
    bytes_ = bytes_.subspan(sizeof(T));
    return value;
  }
  std::string text(std::size_t length) {
    std::string text(as_text(bytes_.first(length)));
    bytes_ = bytes_.subspan(length);
    return text;
  }

 private:
  Bytes bytes_;
};

template <class T>
void append(std::string& to, T value) {
  std::byte bytes[sizeof(T)];
  store_be(bytes, value);
  to += as_text(bytes);
}

struct Lengths {
  std::uint32_t extra = 0;
  std::uint16_t id = 0, name = 0;
  std::size_t total() const noexcept { return std::size_t{extra} + id + name; }
};

Lengths parse_fixed(SnapshotEntry& entry, Bytes fixed) {
  Reader r(fixed);
  Lengths lengths;
  entry.l1_at = {r.number<std::uint64_t>()};
  entry.l1_entries = r.number<std::uint32_t>();
  lengths.id = r.number<std::uint16_t>();
  lengths.name = r.number<std::uint16_t>();
  entry.date_seconds = r.number<std::uint32_t>();
  entry.date_nanoseconds = r.number<std::uint32_t>();
  entry.vm_clock_ns = r.number<std::uint64_t>();
  entry.vm_state_bytes = r.number<std::uint32_t>();
  lengths.extra = r.number<std::uint32_t>();
  return lengths;
}

void parse_rest(SnapshotEntry& entry, Lengths lengths, Bytes rest) {
  Reader r(rest);
  std::size_t extra = lengths.extra;
  for (std::uint64_t* field : {&entry.vm_state_bytes, &entry.disk_size, &entry.icount}) {
    if (extra < sizeof *field) break;
    *field = r.number<std::uint64_t>();
    extra -= sizeof *field;
  }
  entry.more = r.text(extra);
  entry.id = r.text(lengths.id);
  entry.name = r.text(lengths.name);
}

Result<> check_l1(const SnapshotEntry& entry, const Geometry& g, std::uint64_t file_size) {
  const std::uint64_t bytes = entry.l1_entries * entry_bytes;
  if (bytes > l1_bytes_max) return Error(Errc::unsupported, "Snapshot L1 table too large");
  if (!g.cluster_aligned(entry.l1_at.value) || !fits(entry.l1_at.value, bytes, align_up(file_size, g.cluster_size())) ||
      (bytes != 0 && entry.l1_at.value == 0))
    return Error(Errc::corrupt, "Snapshot L1 table offset invalid");
  return {};
}

}  // namespace

Task<SnapshotTable> read_snapshot_table(ImageFile& file, const Header& header) {
  SnapshotTable table;
  const Geometry& g = file.geometry();
  HostOffset at = header.snapshots_at;
  for (std::uint32_t i = 0; i < header.snapshots; ++i) {
    SnapshotEntry entry;
    entry.disk_size = header.size;
    std::byte fixed[fixed_bytes];
    const MutableBytes into(fixed);
    if (!fits(at.value, fixed_bytes, file.size())) co_await Error(Errc::corrupt, "Snapshot table reaches beyond the file");
    co_await file.read(at, into);
    const Lengths lengths = parse_fixed(entry, fixed);
    if (lengths.extra > snapshot_extra_bytes_max) co_await Error(Errc::unsupported, "Too much extra metadata in snapshot table entry");
    std::vector<std::byte> rest(lengths.total());
    if (!fits(at.value + fixed_bytes, rest.size(), file.size())) co_await Error(Errc::corrupt, "Snapshot table reaches beyond the file");
    const HostOffset behind = at + fixed_bytes;
    if (!rest.empty()) co_await file.read(behind, MutableBytes(rest));
    parse_rest(entry, lengths, rest);
    co_await unwrap(check_l1(entry, g, file.size()));
    entry.stored_bytes = align_up(fixed_bytes + rest.size(), 8);
    at = at + entry.stored_bytes;
    if (at.value - header.snapshots_at.value > table_bytes_max) co_await Error(Errc::unsupported, "Snapshot table too large");
    table.push_back(std::move(entry));
  }
  co_return table;
}

std::uint64_t stored_bytes(const SnapshotTable& table) noexcept {
  std::uint64_t bytes = 0;
  for (const SnapshotEntry& entry : table) bytes += entry.stored_bytes;
  return bytes;
}

std::string serialise(const SnapshotTable& table) {
  std::string text;
  for (const SnapshotEntry& entry : table) {
    append(text, entry.l1_at.value);
    append(text, entry.l1_entries);
    append(text, static_cast<std::uint16_t>(entry.id.size()));
    append(text, static_cast<std::uint16_t>(entry.name.size()));
    append(text, entry.date_seconds);
    append(text, entry.date_nanoseconds);
    append(text, entry.vm_clock_ns);
    append(text, static_cast<std::uint32_t>(std::min<std::uint64_t>(entry.vm_state_bytes, ~std::uint32_t{0})));
    append(text, static_cast<std::uint32_t>(known_extra_bytes + entry.more.size()));
    append(text, entry.vm_state_bytes);
    append(text, entry.disk_size);
    append(text, entry.icount);
    text += entry.more + entry.id + entry.name;
    text.resize(align_up(text.size(), 8));
  }
  return text;
}

}  // namespace tidemark::qcow2
