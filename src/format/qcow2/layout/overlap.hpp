// What an image's metadata is made of, as far as it is guarded against being overwritten (qapi:
// Qcow2OverlapCheckFlags): clusters of the kinds that are checked are never handed out as data nor written through
// a guest's mapping.
#pragma once

#include <cstdint>
#include <string_view>

namespace tidemark::qcow2 {

enum class Metadata : std::uint8_t {
  main_header, active_l1, active_l2, refcount_table, refcount_block, snapshot_table, inactive_l1, inactive_l2,
  bitmap_directory,
};
inline constexpr std::string_view metadata_names[] = {
    "header", "L1 table", "L2 table", "refcount table", "refcount block", "snapshot table", "L1 table of a snapshot",
    "L2 table of a snapshot", "bitmap directory",
};
constexpr std::string_view to_string(Metadata kind) noexcept { return metadata_names[static_cast<std::size_t>(kind)]; }

using OverlapChecks = std::uint16_t;     // a set
template <class... Kinds>
constexpr OverlapChecks checks_of(Kinds... kinds) noexcept {
  return static_cast<OverlapChecks>(((1u << static_cast<unsigned>(kinds)) | ... | 0u));
}
constexpr bool has(OverlapChecks set, Metadata kind) noexcept { return set >> static_cast<unsigned>(kind) & 1; }

// QEMU's templates: what takes no look at the file for each check, what is known from memory, and all.
inline constexpr OverlapChecks no_overlap_checks = 0;
inline constexpr OverlapChecks constant_overlap_checks =
    checks_of(Metadata::main_header, Metadata::active_l1, Metadata::refcount_table, Metadata::snapshot_table, Metadata::bitmap_directory);
inline constexpr OverlapChecks cached_overlap_checks =
    constant_overlap_checks | checks_of(Metadata::active_l2, Metadata::refcount_block, Metadata::inactive_l1);
inline constexpr OverlapChecks all_overlap_checks = cached_overlap_checks | checks_of(Metadata::inactive_l2);

}  // namespace tidemark::qcow2
