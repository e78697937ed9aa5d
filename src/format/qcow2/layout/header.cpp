#include "format/qcow2/layout/header.hpp"

#include <algorithm>

namespace tidemark::qcow2 {
namespace {

Error invalid(std::string message) { return Error(Errc::invalid_format, std::move(message)); }
Error corrupt(std::string message) { return Error(Errc::corrupt, std::move(message)); }

std::string hex(std::uint64_t n) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  do text.insert(text.begin(), digits[n & 15]);
  while (n >>= 4);
  return "0x" + text;
}

class Fields {
 public:
  explicit Fields(Bytes bytes) : bytes_(bytes) {}
  std::uint8_t u8(std::size_t at) const { return static_cast<std::uint8_t>(bytes_[at]); }
  std::uint32_t u32(std::size_t at) const { return load_be<std::uint32_t>(bytes_.data() + at); }
  std::uint64_t u64(std::size_t at) const { return load_be<std::uint64_t>(bytes_.data() + at); }
  std::string text(std::size_t at, std::size_t length) const {
    return std::string(as_text(bytes_.subspan(at, length)));
  }

 private:
  Bytes bytes_;
};

Result<> check_start(Bytes start) {
  if (start.size() < header_bytes_v2) return invalid("Image is not in qcow2 format");
  const Fields f(start);
  if (f.u32(0) != magic) return invalid("Image is not in qcow2 format");
  const std::uint32_t version = f.u32(4), bits = f.u32(20);
  if (version < 2 || version > 3)
    return Error(Errc::unsupported, "Unsupported qcow2 version " + std::to_string(version));
  if (bits < cluster_bits_min || bits > cluster_bits_max)
    return invalid("Unsupported cluster size: 2^" + std::to_string(bits));
  return {};
}

Result<> parse_version_3(Header& h, Bytes cluster) {
  if (cluster.size() < header_bytes_v3) return invalid("qcow2 header too short");
  const Fields f(cluster);
  h.incompatible = f.u64(72);
  h.compatible = f.u64(80);
  h.autoclear = f.u64(88);
  h.geometry.refcount_order = f.u32(96);
  h.header_length = f.u32(100);
  if (h.header_length < header_bytes_v3) return invalid("qcow2 header too short");
  if (h.header_length > cluster.size()) return invalid("qcow2 header exceeds cluster size");
  if (h.header_length % 8 != 0) return invalid("qcow2 header length is not a multiple of 8");
  const std::uint8_t type = h.header_length > 104 ? f.u8(104) : 0;
  if (h.has(Incompatible::compression) != (type != 0))
    return invalid("qcow2: compression type " + std::to_string(type) +
                   " does not agree with the compression type bit");
  if (type > 1) return Error(Errc::unsupported, "qcow2: unknown compression type " + std::to_string(type));
  h.compression = static_cast<CompressionType>(type);
  if (h.header_length > header_bytes_now)
    h.more_fields.assign(cluster.begin() + header_bytes_now, cluster.begin() + h.header_length);
  h.geometry.extended_l2 = h.has(Incompatible::extended_l2);
  h.geometry.external_data = h.has(Incompatible::data_file);
  if (h.geometry.extended_l2 && h.geometry.cluster_bits < extended_l2_cluster_bits_min)
    return invalid("qcow2: clusters of 2^" + std::to_string(h.geometry.cluster_bits) +
                   " bytes are too small for extended L2 entries");
  return {};
}

Result<> check_table(const Header& h, HostOffset at, std::uint64_t bytes, std::uint64_t bytes_max,
                     std::uint64_t file_size, const char* name) {
  if (bytes > bytes_max) return Error(Errc::unsupported, std::string(name) + " too large");
  if (!h.geometry.cluster_aligned(at.value) || !fits(at.value, bytes, offset_limit))
    return invalid(std::string(name) + " offset invalid");
  // QEMU cuts the tail of the last cluster off where nothing lies behind it.
  if (!fits(at.value, bytes, align_up(file_size, h.geometry.cluster_size())))
    return corrupt(std::string(name) + " at " + hex(at.value) + " lies beyond the end of the file");
  if (bytes != 0 && at.value == 0) return corrupt(std::string(name) + " overlaps the header");
  return {};
}

Result<> check_tables(const Header& h, std::uint64_t file_size) {
  const Geometry& g = h.geometry;
  if (g.refcount_order > 6) return invalid("Reference count entry width too large; may not exceed 64 bits");
  if (h.size > offset_limit) return Error(Errc::unsupported, "Image is too big (virtual size too large)");
  if (h.refcount_table_clusters == 0) return invalid("Image does not contain a reference count table");
  const std::uint64_t table_bytes = std::uint64_t{h.refcount_table_clusters} << g.cluster_bits;
  if (auto ok = check_table(h, h.refcount_table_at, table_bytes, refcount_table_bytes_max, file_size,
                            "Reference count table"); !ok)
    return ok;
  if (auto ok = check_table(h, h.l1_at, h.l1_entries * entry_bytes, l1_bytes_max, file_size,
                            "Active L1 table"); !ok)
    return ok;
  if (h.l1_entries < l1_entries_for(g, h.size)) return invalid("L1 table is too small");
  if (h.snapshots > snapshots_max) return Error(Errc::unsupported, "Snapshot table too large");
  // QEMU opens none with an offset that is not aligned, whatever should be there.
  const bool outside = h.snapshots_at.value == 0 || h.snapshots_at.value >= file_size;
  if (!g.cluster_aligned(h.snapshots_at.value) || (h.snapshots != 0 && outside)) return invalid("Snapshot table offset invalid");
  if (h.has(Autoclear::data_file_raw) && !h.has(Incompatible::data_file)) return invalid("data-file-raw requires a data file");
  return {};
}

void parse_feature_names(Header& h, Fields f, std::size_t at, std::size_t length) {
  constexpr std::size_t row = 48;
  for (; length >= row; at += row, length -= row) {
    std::string name = f.text(at + 2, row - 2);
    name.resize(std::min(name.size(), name.find('\0')));
    h.feature_names.push_back({f.u8(at), f.u8(at + 1), std::move(name)});
  }
}

Result<> parse_extension(Header& h, Fields f, ExtensionType type, std::size_t at, std::size_t length) {
  const auto keep = [&] { h.more_extensions.push_back({static_cast<std::uint32_t>(type), f.text(at, length)}); };
  switch (type) {
    case ExtensionType::backing_format:
      if (length > name_bytes_max) return invalid("qcow2: backing format name too long");
      h.backing_format = f.text(at, length);
      break;
    case ExtensionType::data_file:
      if (length > name_bytes_max) return invalid("qcow2: data file name too long");
      h.data_file = f.text(at, length);
      break;
    case ExtensionType::feature_names: parse_feature_names(h, f, at, length); break;
    case ExtensionType::bitmaps:
      h.has_bitmaps = true;
      if (length < bitmaps_extension_bytes) return invalid("bitmaps_ext: Invalid extension length");
      h.bitmaps = f.u32(at);
      h.bitmap_directory_bytes = f.u64(at + 8);
      h.bitmap_directory_at = {f.u64(at + 16)};
      break;
    case ExtensionType::encryption:
      if (length < 16) return invalid("Encryption header extension too short");
      h.encryption_header = {f.u64(at), f.u64(at + 8)};
      keep();
      break;
    case ExtensionType::end: break;
    default: keep();
  }
  return {};
}

Result<> parse_extensions(Header& h, Bytes cluster, std::size_t end) {
  const Fields f(cluster);
  std::size_t at = h.header_length;
  while (at < end) {
    if (end - at < 8) {
      if (is_zero(cluster.subspan(at, end - at))) break;
      return invalid("Header extension too short");
    }
    const auto type = static_cast<ExtensionType>(f.u32(at));
    const std::size_t length = f.u32(at + 4);
    if (type == ExtensionType::end) break;
    at += 8;
    if (length > end - at) return invalid("Header extension too large");
    if (auto ok = parse_extension(h, f, type, at, length); !ok) return ok;
    at += std::min<std::size_t>(align_up(length, 8), end - at);
  }
  return {};
}

// The backing file's name lies between the extensions and the end of the first cluster.
Result<> parse_names(Header& h, Bytes cluster, std::uint64_t name_at, std::uint32_t name_length) {
  if (name_at > h.geometry.cluster_size()) return invalid("Invalid backing file offset");
  if (name_at != 0) {
    if (name_length > name_bytes_max) return invalid("Backing file name too long");
    if (!fits(name_at, name_length, cluster.size())) return invalid("Backing file name reaches beyond the header");
    h.backing_name = Fields(cluster).text(name_at, name_length);
    if (h.backing_name.find('\0') != std::string::npos) return invalid("Backing file name contains a NUL byte");
  }
  std::size_t end = cluster.size();
  if (name_at != 0) end = std::min<std::size_t>(end, name_at);
  if (end <= h.header_length) return {};
  const Result<> parsed = parse_extensions(h, cluster, end);
  if (h.backing_name.empty()) h.backing_format.clear();
  return parsed;
}

std::string feature_names_of(const Header& h, std::uint64_t features) {
  std::string names;
  for (unsigned bit = 0; bit < 64; ++bit) {
    if (!(features >> bit & 1)) continue;
    auto named = std::find_if(h.feature_names.begin(), h.feature_names.end(), [&](const FeatureName& n) {
      return n.kind == 0 && n.bit == bit && !n.name.empty();
    });
    if (!names.empty()) names += ", ";
    if (named != h.feature_names.end()) names += named->name;
    else names += "Unknown incompatible feature: " + hex(std::uint64_t{1} << bit);
  }
  return names;
}

}  // namespace

HostRun Header::bitmap_directory() const noexcept {
  const bool holds = has_bitmaps && has(Autoclear::bitmaps) && bitmap_directory_bytes <= offset_limit &&
                     geometry.cluster_aligned(bitmap_directory_at.value);
  if (!holds) return {};
  return {geometry.cluster_of(bitmap_directory_at), geometry.clusters_for(bitmap_directory_bytes)};
}

std::vector<std::byte> bitmaps_extension(const Header& header) {
  std::vector<std::byte> bytes(bitmaps_extension_bytes);
  store_be(bytes.data(), header.bitmaps);
  store_be(bytes.data() + 8, header.bitmap_directory_bytes);
  store_be(bytes.data() + 16, header.bitmap_directory_at.value);
  return bytes;
}

std::string_view to_string(CompressionType type) noexcept {
  return type == CompressionType::zlib ? "zlib" : "zstd";
}

Result<std::uint64_t> first_cluster_size(Bytes start) {
  if (auto ok = check_start(start); !ok) return ok.error();
  return std::uint64_t{1} << Fields(start).u32(20);
}

Result<Header> parse_header(Bytes cluster, std::uint64_t file_size) {
  if (auto ok = check_start(cluster); !ok) return ok.error();
  const Fields f(cluster);
  Header h;
  h.geometry.version = f.u32(4);
  h.geometry.cluster_bits = f.u32(20);
  h.size = f.u64(24);
  h.crypt_method = f.u32(32);
  h.l1_entries = f.u32(36);
  h.l1_at = {f.u64(40)};
  h.refcount_table_at = {f.u64(48)};
  h.refcount_table_clusters = f.u32(56);
  h.snapshots = f.u32(60);
  h.snapshots_at = {f.u64(64)};
  h.header_length = header_bytes_v2;
  if (h.geometry.version >= 3)
    if (auto ok = parse_version_3(h, cluster); !ok) return ok.error();
  // Names first: a message about an unknown feature wants its name.
  if (auto ok = parse_names(h, cluster, f.u64(8), f.u32(16)); !ok) return ok.error();
  const std::uint64_t known = 0x1f;
  if (h.incompatible & ~known)
    return Error(Errc::unsupported, "Unsupported qcow2 feature(s): " + feature_names_of(h, h.incompatible & ~known));
  if (auto ok = check_tables(h, file_size); !ok) return ok.error();
  return h;
}

Result<> check_supported(const Header& h, bool read_only) {
  auto unsupported = [](const char* what) { return Error(Errc::unsupported, what); };
  if (h.crypt_method > 2) return invalid("Unsupported encryption method " + std::to_string(h.crypt_method));
  if (h.crypt_method != 0) return unsupported("qcow2: encrypted images are not supported");
  if (read_only) return {};
  if (h.has(Incompatible::corrupt))
    return corrupt("qcow2: Image is corrupt; cannot be opened read/write");
  return {};
}

namespace {

class Writer {
 public:
  explicit Writer(std::size_t size) : bytes_(size) {}
  void u8(std::size_t at, std::uint8_t v) { bytes_[at] = std::byte{v}; }
  void u32(std::size_t at, std::uint32_t v) { store_be(bytes_.data() + at, v); }
  void u64(std::size_t at, std::uint64_t v) { store_be(bytes_.data() + at, v); }
  bool text(std::size_t at, std::string_view text) {
    if (!fits(at, text.size(), bytes_.size())) return false;
    std::copy_n(as_bytes(text).data(), text.size(), bytes_.data() + at);
    return true;
  }
  // One extension behind the others; room for the end marker stays.  False when it does not fit.
  bool extension(std::size_t& at, ExtensionType type, std::string_view data) {
    const std::size_t total = 8 + align_up(data.size(), 8);
    if (!fits(at, total + 8, bytes_.size())) return false;
    u32(at, static_cast<std::uint32_t>(type));
    u32(at + 4, static_cast<std::uint32_t>(data.size()));
    (void)text(at + 8, data);
    at += total;
    return true;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// What readers who do not know a feature show for it.
constexpr struct {
  std::uint8_t kind, bit;
  const char* name;
} feature_rows[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

std::string feature_table() {
  std::string table;
  for (const auto& row : feature_rows) {
    std::string text{static_cast<char>(row.kind), static_cast<char>(row.bit)};
    text += row.name;
    text.resize(48);
    table += text;
  }
  return table;
}

}  // namespace

Result<std::vector<std::byte>> serialise_header(const Header& h) {
  const Geometry& g = h.geometry;
  if (header_bytes_now + h.more_fields.size() > g.cluster_size()) return invalid("qcow2 header exceeds cluster size");
  Writer w(g.cluster_size());
  w.u32(0, magic);
  w.u32(4, g.version);
  w.u32(20, g.cluster_bits);
  w.u64(24, h.size);
  w.u32(32, h.crypt_method);
  w.u32(36, h.l1_entries);
  w.u64(40, h.l1_at.value);
  w.u64(48, h.refcount_table_at.value);
  w.u32(56, h.refcount_table_clusters);
  w.u32(60, h.snapshots);
  w.u64(64, h.snapshots_at.value);
  std::size_t at = header_bytes_v2;
  if (g.version >= 3) {
    w.u64(72, h.incompatible);
    w.u64(80, h.compatible);
    w.u64(88, h.autoclear);
    w.u32(96, g.refcount_order);
    at = header_bytes_now + h.more_fields.size();
    w.u32(100, static_cast<std::uint32_t>(at));
    w.u8(104, static_cast<std::uint8_t>(h.compression));
    (void)w.text(header_bytes_now, as_text(h.more_fields));
  }
  const Error too_long(Errc::invalid_argument, "Backing file name and format do not fit into the first cluster");
  if (!h.backing_format.empty() && !w.extension(at, ExtensionType::backing_format, h.backing_format)) return too_long;
  if (!h.data_file.empty() && !w.extension(at, ExtensionType::data_file, h.data_file)) return too_long;
  if (h.has_bitmaps && !w.extension(at, ExtensionType::bitmaps, as_text(bitmaps_extension(h)))) return too_long;
  for (const auto& more : h.more_extensions)
    if (!w.extension(at, static_cast<ExtensionType>(more.type), more.data)) return too_long;
  // Where room is scarce it is left to what may come: bitmaps, longer names.
  constexpr std::uint64_t roomy = 4096;
  const std::size_t names_end = at + 8 + feature_table().size() + 8 + h.backing_name.size();
  if (g.version >= 3 && g.cluster_size() >= roomy && names_end <= g.cluster_size())
    (void)w.extension(at, ExtensionType::feature_names, feature_table());
  if (!h.backing_name.empty()) {
    at += 8;                                     // the end marker: zeroes
    if (!w.text(at, h.backing_name)) return too_long;
    w.u64(8, at);
    w.u32(16, static_cast<std::uint32_t>(h.backing_name.size()));
  }
  return w.take();
}

}  // namespace tidemark::qcow2
