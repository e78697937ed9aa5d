// The snapshot table: what an image says of its internal snapshots, read with bounds and written back with
// what is not known of it kept.
#pragma once

#include <string>
#include <vector>

#include "format/qcow2/layout/header.hpp"
#include "format/qcow2/tables/image_file.hpp"
#include "task/task.hpp"

namespace tidemark {

// An internal snapshot, as qemu-img shows it.
struct Qcow2Snapshot {
  std::string id, name;
  std::uint32_t date_seconds = 0, date_nanoseconds = 0;
  std::uint64_t vm_clock_ns = 0;
  std::uint64_t vm_state_bytes = 0;
  std::uint64_t disk_size = 0;
  std::uint64_t icount = ~std::uint64_t{0};      // none
};

}  // namespace tidemark

namespace tidemark::qcow2 {

struct SnapshotEntry : Qcow2Snapshot {
  HostOffset l1_at;
  std::uint32_t l1_entries = 0;
  std::string more;                              // extra data behind that
  std::uint64_t stored_bytes = 0;                // in the table it was read from
};
using SnapshotTable = std::vector<SnapshotEntry>;

inline constexpr std::uint32_t snapshot_extra_bytes_max = 1024;

// What parse_header() found, checked: tables aligned and inside the file.
Task<SnapshotTable> read_snapshot_table(ImageFile& file, const Header& header);
std::string serialise(const SnapshotTable& table);
// Of the table that was read.
std::uint64_t stored_bytes(const SnapshotTable& table) noexcept;

}  // namespace tidemark::qcow2
