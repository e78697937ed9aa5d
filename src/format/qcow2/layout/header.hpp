// The qcow2 header, its extensions and the names in its cluster.
//
// What parse_header() returns is bounded and consistent in itself and with the size of the file:
// aligned, not overflowing, tables inside the file, names short.  Whether the driver can do what the
// image asks for is check_supported()'s to say.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

inline constexpr std::uint32_t magic = 0x514649fb;       // "QFI\xfb"
inline constexpr std::uint32_t cluster_bits_min = 9, cluster_bits_max = 21, extended_l2_cluster_bits_min = 14;
inline constexpr std::uint64_t l1_bytes_max = 32 * MiB;
inline constexpr std::uint64_t refcount_table_bytes_max = 8 * MiB;
inline constexpr std::uint32_t snapshots_max = 65536;
inline constexpr std::uint64_t name_bytes_max = 1023;
inline constexpr std::uint32_t header_bytes_v2 = 72, header_bytes_v3 = 104, header_bytes_now = 112;

enum class Incompatible : std::uint64_t {
  dirty = 1, corrupt = 2, data_file = 4, compression = 8, extended_l2 = 16,
};
enum class Compatible : std::uint64_t { lazy_refcounts = 1 };
// `tracked` is ours: who keeps a tracking store for the image has it open, or had when it died, and nobody else has opened
// it for writing since: all others clear the bits that they do not know (docs/decisions/0007-bitmaps-in-qcow2.md).  The 31 bits
// below it say which store that is.
enum class Autoclear : std::uint64_t { bitmaps = 1, data_file_raw = 2, tracked = std::uint64_t{1} << 63 };
inline constexpr std::uint64_t tracked_mask = ~std::uint64_t{0} << 32;

enum class CompressionType : std::uint8_t { zlib = 0, zstd = 1 };
std::string_view to_string(CompressionType type) noexcept;

enum class ExtensionType : std::uint32_t {
  end = 0,
  backing_format = 0xe2792aca,
  feature_names = 0x6803f857,
  bitmaps = 0x23852875,
  encryption = 0x0537be77,
  data_file = 0x44415441,
};

struct FeatureName {
  std::uint8_t kind = 0;                  // 0 incompatible, 1 compatible, 2 autoclear
  std::uint8_t bit = 0;
  std::string name;
};

struct Header {
  Geometry geometry;
  std::uint64_t size = 0;                 // of the virtual disk, bytes
  std::uint32_t crypt_method = 0;
  std::uint32_t l1_entries = 0;
  HostOffset l1_at;
  HostOffset refcount_table_at;
  std::uint32_t refcount_table_clusters = 0;
  std::uint32_t snapshots = 0;
  HostOffset snapshots_at;
  std::uint64_t incompatible = 0, compatible = 0, autoclear = 0;
  std::uint32_t header_length = header_bytes_now;
  CompressionType compression = CompressionType::zlib;

  std::string backing_name;               // empty: none
  std::string backing_format;
  std::string data_file;
  bool has_bitmaps = false;               // the bitmaps extension is there; whether it counts, Autoclear::bitmaps says
  std::uint32_t bitmaps = 0;              // that it says, unchecked
  HostOffset bitmap_directory_at;
  std::uint64_t bitmap_directory_bytes = 0;
  // What is kept as it is when the header is written anew: fields behind those above, and unknown extensions.
  std::vector<std::byte> more_fields;
  struct Extension {
    std::uint32_t type = 0;
    std::string data;
  };
  std::vector<Extension> more_extensions;
  Range encryption_header;                // bytes of the image file, unchecked
  std::vector<FeatureName> feature_names;

  bool has(Incompatible f) const noexcept { return incompatible & static_cast<std::uint64_t>(f); }
  bool has(Compatible f) const noexcept { return compatible & static_cast<std::uint64_t>(f); }
  bool has(Autoclear f) const noexcept { return autoclear & static_cast<std::uint64_t>(f); }
  void set(Incompatible f, bool on) noexcept { set(incompatible, static_cast<std::uint64_t>(f), on); }
  void set(Compatible f, bool on) noexcept { set(compatible, static_cast<std::uint64_t>(f), on); }
  void set(Autoclear f, bool on) noexcept { set(autoclear, static_cast<std::uint64_t>(f), on); }
  // No clusters where there is none, or none that holds.
  HostRun bitmap_directory() const noexcept;
  // The data file alone shows the disk's content.
  bool data_file_raw() const noexcept { return has(Incompatible::data_file) && has(Autoclear::data_file_raw); }

 private:
  static void set(std::uint64_t& features, std::uint64_t bit, bool on) noexcept {
    features = on ? features | bit : features & ~bit;
  }
};

// Bytes of the fields that change while an image is open.
struct HeaderField {
  static constexpr std::uint64_t size = 24, crypt_method = 32, l1_entries = 36, l1_at = 40, refcount_table = 48,
                                 incompatible = 72, compatible = 80, autoclear = 88;
};

// The cluster size a header begins with, so that the whole first cluster can be read; `start` holds
// at least header_bytes_v2 bytes.
Result<std::uint64_t> first_cluster_size(Bytes start);

// `cluster`: the first cluster, or as much of it as the file has.
Result<Header> parse_header(Bytes cluster, std::uint64_t file_size);

// Errors with the names of features that are legal but not done here.
Result<> check_supported(const Header& header, bool read_only);

// What the header says of its bitmaps, as the extension's content.
inline constexpr std::size_t bitmaps_extension_bytes = 24;
std::vector<std::byte> bitmaps_extension(const Header& header);

// The first cluster of a new image; the names and extensions must fit.
Result<std::vector<std::byte>> serialise_header(const Header& header);

// Sizes and offsets of the L1 table that a disk of this size needs.
constexpr std::uint64_t l1_entries_for(const Geometry& g, std::uint64_t size) noexcept {
  return div_up(size, g.l2_span());
}

}  // namespace tidemark::qcow2
