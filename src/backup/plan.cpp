#include "backup/plan.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace tidemark {

std::string bitmap_name(std::string_view directory_id, std::string_view point_id) {
  return fmt::format("tidemark:{}:{}", directory_id, point_id);
}

namespace {

// The newest point with this disk, and why it cannot be built on, if so.
struct Candidate {
  const PointManifest* point = nullptr;
  std::string obstacle;
};

Candidate newest_point(const BackupDirectory& directory, std::string_view disk, std::uint64_t disk_size,
                       const std::vector<NodeBitmapState>& bitmaps) {
  const auto& points = directory.points();
  const auto newest = std::find_if(points.rbegin(), points.rend(), [&](const auto& p) { return p.find(disk); });
  if (newest == points.rend()) return {nullptr, "there is no earlier point"};
  const DiskManifest& entry = *newest->find(disk);
  if (auto chain = directory.chain(*newest, disk); !chain) return {&*newest, chain.error().message()};
  // Before its bitmap: a daemon that was restarted for a new size has none, either.
  if (entry.size != disk_size)
    return {&*newest, fmt::format("the disk has {} bytes, it had {} at point {}", disk_size, entry.size, newest->id)};
  const auto bitmap = std::find_if(bitmaps.begin(), bitmaps.end(), [&](const auto& b) { return b.name == entry.bitmap; });
  if (bitmap == bitmaps.end()) return {&*newest, fmt::format("the disk has no bitmap since point {}", newest->id)};
  if (bitmap->inconsistent) return {&*newest, fmt::format("the bitmap since point {} is inconsistent", newest->id)};
  if (!bitmap->recording) return {&*newest, fmt::format("the bitmap since point {} does not record", newest->id)};
  return {&*newest, {}};
}

// All but that of the newest point, if that can be built on.
std::vector<std::string> litter_of(const BackupDirectory& directory, std::string_view disk, const Candidate& newest,
                                   const std::vector<NodeBitmapState>& bitmaps) {
  const std::string ours = bitmap_name(directory.id(), "");
  const std::string keep = newest.obstacle.empty() ? newest.point->find(disk)->bitmap : std::string();
  std::vector<std::string> litter;
  for (const auto& bitmap : bitmaps)
    if (bitmap.name.starts_with(ours) && bitmap.name != keep && !bitmap.busy) litter.push_back(bitmap.name);
  return litter;
}

// "checkpoint:MICROSECONDS:NAME"
bool is_of_checkpoint(std::string_view bitmap, std::string_view name) {
  const auto colon = bitmap.find(':', bitmap.find(':') + 1);
  return colon != std::string_view::npos && bitmap.substr(colon + 1) == name;
}

}  // namespace

Result<DiskPlan> plan_disk(const BackupDirectory& directory, std::string_view disk, std::uint64_t disk_size,
                           const std::vector<NodeBitmapState>& bitmaps, BackupLevel level) {
  const Candidate candidate = newest_point(directory, disk, disk_size, bitmaps);
  const bool usable = candidate.obstacle.empty();
  if (level == BackupLevel::incremental && !usable)
    return Error(Errc::not_found, fmt::format("disk '{}' cannot be backed up incrementally: {}; use level full or auto",
                                              disk, candidate.obstacle));
  DiskPlan plan;
  if (usable && level != BackupLevel::full) {
    plan.base = candidate.point->id;
    plan.base_bitmap = candidate.point->find(disk)->bitmap;
  } else {
    plan.full_reason = level == BackupLevel::full ? "asked for" : candidate.obstacle;
  }
  plan.litter = litter_of(directory, disk, candidate, bitmaps);
  return plan;
}

Result<DiskPlan> plan_since(const BackupDirectory& directory, std::string_view disk, std::uint64_t disk_size,
                            const std::vector<NodeBitmapState>& bitmaps, std::string_view checkpoint) {
  const auto refuse = [&](std::string_view why) {
    return Error(Errc::not_found, fmt::format("disk '{}' cannot be backed up since '{}': {}", disk, checkpoint, why));
  };
  const auto& points = directory.points();
  const auto taken_with_it = [&](const PointManifest& point) {
    const DiskManifest* entry = point.find(disk);
    return entry && is_of_checkpoint(entry->checkpoint, checkpoint);
  };
  const auto point = std::find_if(points.rbegin(), points.rend(), taken_with_it);
  if (point == points.rend()) return refuse("the directory has no point that was taken with this checkpoint");
  const DiskManifest& entry = *point->find(disk);
  if (auto chain = directory.chain(*point, disk); !chain) return refuse(chain.error().message());
  if (entry.size != disk_size) return refuse(fmt::format("it has {} bytes, it had {} at point {}", disk_size, entry.size, point->id));
  const auto there = [&](const NodeBitmapState& bitmap) { return bitmap.name == entry.checkpoint && !bitmap.inconsistent; };
  if (std::none_of(bitmaps.begin(), bitmaps.end(), there))
    return refuse(fmt::format("the disk no longer has the checkpoint of point {}", point->id));
  DiskPlan plan;
  plan.base = point->id;
  plan.litter = litter_of(directory, disk, newest_point(directory, disk, disk_size, bitmaps), bitmaps);
  return plan;
}

}  // namespace tidemark
