#include "control/commands/node_info.hpp"

#include "block/node.hpp"
#include "control/graph/file_names.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/snapshots/internal_snapshot.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

std::int64_t to_int(std::uint64_t value) { return static_cast<std::int64_t>(value); }

schema::ImageInfoSpecific describe_qcow2(const ImageInfo::Qcow2& info) {
  schema::ImageInfoSpecificQCow2 qcow2;
  qcow2.compat = info.compat;
  if (!info.data_file.empty()) {
    qcow2.data_file = info.data_file;
    qcow2.data_file_raw = info.data_file_raw;
  }
  if (info.compat != "0.10") {
    qcow2.extended_l2 = info.extended_l2;
    qcow2.lazy_refcounts = info.lazy_refcounts;
    qcow2.corrupt = info.corrupt;
  }
  qcow2.refcount_bits = info.refcount_bits;
  qcow2.compression_type = schema::parse_enum<schema::Qcow2CompressionType>(info.compression_type)
                               .value_or(schema::Qcow2CompressionType::zlib);
  schema::ImageInfoSpecificQCow2Wrapper wrapper;
  wrapper.data = std::move(qcow2);
  schema::ImageInfoSpecific specific;
  specific.type = schema::ImageInfoSpecificKind::qcow2;
  specific.branch = std::move(wrapper);
  return specific;
}

schema::ImageInfo to_schema(const ImageInfo& info) {
  schema::ImageInfo image;
  image.filename = info.filename;
  image.format = info.format;
  image.virtual_size = to_int(info.virtual_size);
  if (info.actual_size) image.actual_size = to_int(*info.actual_size);
  if (info.cluster_size) image.cluster_size = to_int(*info.cluster_size);
  if (info.dirty) image.dirty_flag = *info.dirty;
  if (info.encrypted) image.encrypted = true;
  if (info.compressed) image.compressed = true;
  if (!info.backing_filename.empty()) image.backing_filename = info.backing_filename;
  if (!info.full_backing_filename.empty()) image.full_backing_filename = info.full_backing_filename;
  if (!info.backing_format.empty()) image.backing_filename_format = info.backing_format;
  if (info.qcow2) image.format_specific = describe_qcow2(*info.qcow2);
  return image;
}

// What shows an image as it is shows its snapshots, too.
void add_snapshots(const BlockNode& node, schema::ImageInfo& image) {
  const bool passes = node.driver().is_filter() || node.driver().name() == "raw";
  if (passes && !node.driver().edges().empty()) return add_snapshots(node.driver().edges().front()->node(), image);
  if (node.driver().name() != "qcow2") return;
  const std::vector<Qcow2Snapshot> snapshots = static_cast<const Qcow2Driver&>(node.driver()).snapshots();
  if (snapshots.empty()) return;
  image.snapshots.emplace();
  for (const Qcow2Snapshot& snapshot : snapshots) image.snapshots->push_back(describe_snapshot(snapshot));
}

// As the image has them: those of a node that is written are in use there.
Task<> add_stored_bitmaps(const BlockNode& node, schema::ImageInfo& image) {
  if (node.driver().name() != "qcow2" || !image.format_specific) co_return;
  auto& driver = static_cast<Qcow2Driver&>(node.driver());
  if (!driver.has_bitmaps()) co_return;
  const auto entries = co_await driver.bitmap_entries().result();
  if (!entries) co_return;                               // who opened it was told
  auto& specific = std::get<schema::ImageInfoSpecificQCow2Wrapper>(image.format_specific->branch).data;
  specific.bitmaps.emplace();
  for (const qcow2::BitmapEntry& entry : *entries) {
    schema::Qcow2BitmapInfo info;
    info.name = entry.name;
    info.granularity = std::uint32_t{1} << entry.granularity_bits;
    if (entry.in_use()) info.flags.push_back(schema::Qcow2BitmapInfoFlags::in_use);
    if (entry.enabled()) info.flags.push_back(schema::Qcow2BitmapInfoFlags::auto_);
    specific.bitmaps->push_back(std::move(info));
  }
}

// QEMU counts filters as layers.
BlockNode* layer_below(BlockNode& node) {
  BlockNode* filtered = node.filtered();
  return filtered ? filtered : node.backing();
}

// Chains are bound when they are opened, so this recursion is.
Task<schema::ImageInfo> describe_chain(BlockNode& node, bool flat) {
  schema::ImageInfo image = to_schema(co_await node.driver().info());
  image.filename = co_await file_name_of(node);
  image.virtual_size = to_int(node.size());
  add_snapshots(node, image);
  co_await add_stored_bitmaps(node, image);
  BlockNode* below = layer_below(node);
  if (!flat && below) {
    schema::ImageInfo backing = co_await describe_chain(*below, flat);
    image.backing_image = std::move(backing);
  }
  co_return std::move(image);
}

schema::BlockdevDetectZeroesOptions describe(DetectZeroes option) {
  switch (option) {
    case DetectZeroes::off: return schema::BlockdevDetectZeroesOptions::off;
    case DetectZeroes::on: return schema::BlockdevDetectZeroesOptions::on;
    case DetectZeroes::unmap: return schema::BlockdevDetectZeroesOptions::unmap;
  }
  return schema::BlockdevDetectZeroesOptions::off;
}

std::int64_t layers_below(BlockNode& node) {
  std::int64_t depth = 0;
  for (BlockNode* at = layer_below(node); at; at = layer_below(*at)) ++depth;
  return depth;
}

}  // namespace

Task<schema::ImageInfo> describe_image(BlockNode& node, bool flat) { return describe_chain(node, flat); }

std::vector<schema::BlockDirtyInfo> describe_bitmaps(const NodeBitmaps& bitmaps) {
  std::vector<schema::BlockDirtyInfo> all;
  // The newest first, as QEMU tells them.
  for (auto each = bitmaps.all().rbegin(); each != bitmaps.all().rend(); ++each) {
    const NodeBitmap* bitmap = each->get();
    schema::BlockDirtyInfo info;
    info.name = bitmap->name();
    info.count = to_int(bitmap->dirty_bytes());
    info.granularity = static_cast<std::uint32_t>(bitmap->granularity());
    info.recording = bitmap->recording();
    info.busy = bitmap->busy();
    info.persistent = bitmap->persistent();
    if (bitmap->inconsistent()) {
      info.inconsistent = true;
      info.inconsistent_reason = bitmap->inconsistent_reason();
    }
    if (bitmap->follows()) info.follows_disk = true;
    if (bitmap->suspected()) info.suspected = to_int(bitmap->suspected_bytes());
    all.push_back(std::move(info));
  }
  return all;
}

Task<schema::BlockDeviceInfo> describe_node(BlockNode& node, bool flat) {
  InFlight pin(node);                              // it cannot be closed meanwhile
  schema::BlockDeviceInfo info;
  info.image = co_await describe_chain(node, flat);
  info.file = info.image.filename;
  info.node_name = node.name();
  info.ro = is_read_only(node) && !node.writes_when_active();
  info.drv = node.driver().name();
  if (BlockNode* backing = node.backing()) info.backing_file = co_await file_name_of(*backing);
  info.backing_file_depth = flat ? 0 : layers_below(node);      // as QEMU has it: of what is told
  for (const Edge* edge : node.driver().edges()) {
    schema::BlockdevChild child;
    child.child = edge->name();
    child.node_name = edge->node().name();
    info.children.push_back(std::move(child));
  }
  info.active = node.active();
  info.detect_zeroes = describe(node.options().detect_zeroes);
  info.write_threshold = to_int(node.write_threshold());
  info.cache.writeback = true;
  info.cache.direct = node.options().cache_direct;
  info.cache.no_flush = node.options().cache_no_flush;
  if (!node.bitmaps().empty()) info.dirty_bitmaps = describe_bitmaps(node.bitmaps());
  co_return std::move(info);
}

}  // namespace tidemark
