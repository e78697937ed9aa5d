// Checking an image: every reference to every cluster is counted from the tables, and compared with what the refcounts
// say, with what the tables' own flags say, and with the file.  Repairing makes the refcounts and flags true again.
//
// It works on the file, not through the driver: an image that cannot be opened for writing can be repaired.  Nobody
// else uses the file meanwhile.
//
// Memory: two bytes and a bit for each cluster of the file, of which only pages with something referenced or counted are
// used, for at most 2^31 clusters; and 24 bytes for each L2 table.  Each L2 table is read once, however many snapshots
// share it; holes are not read: a file costs what is in it, not what it says.
//
// A repair may be cut off anywhere: refcounts are raised before flags say that a cluster is nobody else's, and a new
// refcount structure is durable before the header points at it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "block/edge.hpp"
#include "task/cancel.hpp"

namespace tidemark::qcow2 {

enum class Repair : std::uint8_t { nothing, leaks, all };

struct CheckOptions {
  Repair repair = Repair::nothing;
  // Nobody asked for the repair: what is damaged stays as it is, since what lies behind an entry that cannot be followed looks leaked.
  bool leaves_damage = false;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;     // bytes of tables
  CancelToken interrupted;
};

struct CheckReport {
  static constexpr std::size_t messages_max = 1000;

  // What is there now, that is after the repair; and what there was before it.
  std::uint64_t corruptions = 0, leaks = 0, check_errors = 0;
  std::uint64_t not_followed = 0;          // of the corruptions those that are no wrong count, nor a flag for one
  std::uint64_t corruptions_fixed = 0, leaks_fixed = 0;
  std::uint64_t total_clusters = 0, allocated_clusters = 0, fragmented_clusters = 0, compressed_clusters = 0;
  std::uint64_t image_end = 0;
  std::vector<std::string> messages;       // of the first pass; the first thousand
  std::uint64_t messages_left_out = 0;

  bool clean() const noexcept { return corruptions == 0 && leaks == 0 && check_errors == 0; }
  bool sees_all() const noexcept { return not_followed == 0 && check_errors == 0; }
};

Task<CheckReport> check_image(Edge& file, CheckOptions options);

}  // namespace tidemark::qcow2
