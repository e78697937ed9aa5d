// Manifest: what a point in a backup directory is (docs/formats/backup-directory.md).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backup/digest.hpp"
#include "base/error.hpp"
#include "base/json.hpp"
#include "base/units.hpp"

namespace tidemark {

struct DiskManifest {
  std::string name;                    // of the disk, unique in its point; names its files
  std::string node;                    // the node it was taken from
  std::uint64_t size = 0;              // bytes
  std::optional<std::string> base;     // the point whose file of this disk this one's builds on; none: full
  std::uint32_t granularity = 0;       // bytes a checksum covers
  std::uint64_t stored_bytes = 0;      // of the disk, held in this point's own file
  Digest sums_digest;                  // of the whole sums file
  std::string bitmap;                  // on `node`: records since this point
  // The first point that is known to hold this very disk under this name; empty: this one.
  std::string identity{};
  std::string checkpoint{};            // the bitmap of the checkpoint that was taken with it; empty: none was

  std::string image_file() const { return name + ".qcow2"; }
  std::string sums_file() const { return name + ".sums"; }
};

struct PointManifest {
  std::string id;
  std::int64_t time_ns = 0;            // since 1970
  double seconds = 0;                  // that taking it took
  std::vector<DiskManifest> disks;
  Json machine;                        // the machine's configuration, as it was given; null for none

  const DiskManifest* find(std::string_view disk) const noexcept;
  bool full() const noexcept;          // builds on nothing
};

// The file's text, its own digest included.
std::string to_text(const PointManifest& manifest);
// Strict: a manifest that says what cannot be is Errc::corrupt; one of a later version is Errc::unsupported.
Result<PointManifest> parse_manifest(std::string_view text);

// No manifest is larger.
inline constexpr std::uint64_t manifest_size_max = 64 * MiB;
// Whether a manifest can hold it, and be read again.
Result<> check_machine(const Json& machine);

// "2026-11-21T10:15:00Z", and the compact form that ids begin with: "20261121T101500.123Z".
std::string utc_time(std::int64_t ns_since_1970);
std::string utc_time_compact(std::int64_t ns_since_1970);

// Names become file names: letters, digits, '-', '_', '.', not first a dot; at most 64 characters.
bool valid_disk_name(std::string_view name) noexcept;
bool valid_point_id(std::string_view id) noexcept;

}  // namespace tidemark
