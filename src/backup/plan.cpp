#include "backup/plan.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace tidemark {

std::string bitmap_name(std::string_view directory_id, std::string_view point_id, std::string_view disk) {
  return fmt::format("tidemark:{}:{}:{}", directory_id, point_id, disk);
}

std::string bitmap_prefix(std::string_view directory_id) { return fmt::format("tidemark:{}:", directory_id); }

namespace {

bool has(const std::vector<NodeBitmapState>& bitmaps, std::string_view name) {
  return std::any_of(bitmaps.begin(), bitmaps.end(), [&](const auto& bitmap) { return bitmap.name == name; });
}

// Early programs gave those of all disks of a point one name: it does not say which disk has which.
bool shared(const PointManifest& point, std::string DiskManifest::*bitmap, const std::string& name) {
  return std::count_if(point.disks.begin(), point.disks.end(), [&](const auto& disk) { return disk.*bitmap == name; }) > 1;
}

std::string identity_in(const PointManifest& point, const DiskManifest& disk) {
  return disk.identity.empty() ? point.id : disk.identity;
}

// By the newest of this disk's bitmaps that the node has, whatever that records.
std::string identity_by(const BackupDirectory& directory, std::string_view disk, const std::vector<NodeBitmapState>& bitmaps) {
  const auto& points = directory.points();
  const auto proven = [&](const PointManifest& point) {
    const DiskManifest* entry = point.find(disk);
    return entry && has(bitmaps, entry->bitmap) && !shared(point, &DiskManifest::bitmap, entry->bitmap);
  };
  const auto newest = std::find_if(points.rbegin(), points.rend(), proven);
  return newest == points.rend() ? std::string() : identity_in(*newest, *newest->find(disk));
}

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
  if (shared(*newest, &DiskManifest::bitmap, entry.bitmap))
    return {&*newest, fmt::format("the bitmap since point {} does not say of which disk it is: an early program took that", newest->id)};
  if (bitmap->inconsistent) return {&*newest, fmt::format("the bitmap since point {} is inconsistent", newest->id)};
  if (!bitmap->recording) return {&*newest, fmt::format("the bitmap since point {} does not record", newest->id)};
  return {&*newest, {}};
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
  plan.identity = identity_by(directory, disk, bitmaps);
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
  // All disks have the checkpoint by one name: another bitmap has to tell them apart.
  const std::string identity = identity_by(directory, disk, bitmaps);
  if (shared(*point, &DiskManifest::checkpoint, entry.checkpoint) && identity != identity_in(*point, entry))
    return refuse(fmt::format("nothing shows that it is the disk that point {} holds under this name; take a backup without --since",
                              point->id));
  DiskPlan plan;
  plan.base = point->id;
  plan.base_bitmap = entry.checkpoint;
  plan.identity = identity;
  return plan;
}

}  // namespace tidemark
