// The operations of SimDisk on open files, with Linux's answers to bad requests.
#include <cerrno>

#include "io/sim/disk.hpp"

namespace tidemark {
namespace {

bool beyond_any_file(std::uint64_t offset, std::uint64_t length) {
  return !fits(offset, length, max_disk_size);
}

bool misaligned(const IoOp& op, const SimOpenFile& file) {
  const std::uint32_t block = file.node->logical_block;
  return file.flags.direct && (!is_aligned(op.offset | op.buffers.size(), block) ||
                               !op.buffers.aligned(block));
}

}  // namespace

// What a disk could not write ends with a sector, what was merely short anywhere.
std::uint64_t SimDisk::cut(std::uint64_t length, const SimOpenFile& file, bool failed) {
  std::uint64_t unit = failed ? options_.sector : 1;
  if (file.flags.direct) unit = file.node->logical_block;
  return length <= unit ? length : (1 + prng_.below(length / unit - (length % unit == 0))) * unit;
}

bool SimDisk::has_space(const SimNode& node, Range range) const {
  if (node.type == SimNode::Type::device) return true;
  const std::uint64_t used = space_.used, more = node.file->visible().missing(range);
  return used <= options_.capacity && more <= options_.capacity - used;
}

std::int64_t SimDisk::read(IoOp& op, SimOpenFile& file, const SimStart& start) {
  if (beyond_any_file(op.offset, op.buffers.size()) || misaligned(op, file)) return -EINVAL;
  const SparseContent& content = file.node->file->visible();
  if (op.offset >= content.size()) return 0;
  std::uint64_t length = std::min<std::uint64_t>(op.buffers.size(), content.size() - op.offset);
  if (start.cut) length = cut(length, file, false);
  std::uint64_t at = op.offset;
  op.buffers.first(length).for_each([&](MutableBytes piece) {
    content.read(at, piece);
    at += piece.size();
  });
  return static_cast<std::int64_t>(length);
}

std::int64_t SimDisk::write(IoOp& op, SimOpenFile& file, const SimStart& start) {
  if (!file.flags.write) return -EBADF;
  if (file.node->read_only) return -EPERM;
  if (op.offset > max_disk_size) return -EINVAL;
  if (beyond_any_file(op.offset, op.buffers.size())) return -EFBIG;
  if (misaligned(op, file)) return -EINVAL;
  std::uint64_t length = op.buffers.size();
  if (file.node->type == SimNode::Type::device) {
    const std::uint64_t size = file.node->file->visible().size();
    if (length != 0 && op.offset >= size) return -ENOSPC;
    length = std::min(length, size - op.offset);
  }
  if (length == 0) return 0;
  if (start.fail_errno && (start.fail_errno != EIO || prng_.chance(1, 2))) return -start.fail_errno;
  if (start.cut || start.fail_errno) length = cut(length, file, start.fail_errno != 0);
  if (!has_space(*file.node, {op.offset, length})) return -ENOSPC;
  auto data = std::make_shared<std::vector<std::byte>>(length);
  op.buffers.first(length).copy_to(*data);
  SimChange change{SimChange::Kind::write, {op.offset, length}, std::move(data)};
  const bool promised = !start.interrupted && !start.fail_errno;
  file.node->file->change(std::move(change), op.durable && promised);
  touch(*file.node);
  return start.fail_errno ? -start.fail_errno : static_cast<std::int64_t>(length);
}

void SimDisk::synced(SimNode& node, const SimStart& start, const SimNode* directory) {
  node.durable_change_time_ns = node.change_time_ns;
  const bool ordered = options_.names == SimOptions::Names::ordered;
  if (ordered || directory) names_.sync(ordered ? nullptr : directory, start.name_changes);
}

std::int64_t SimDisk::sync(SimOpenFile& file, const SimStart& start) {
  SimNode& node = *file.node;
  if (start.fail_errno) {
    if (node.file) node.file->fail_sync(start.file_changes, prng_);
    return -start.fail_errno;
  }
  if (node.file) node.file->sync(start.file_changes);
  synced(node, start, node.is_directory() ? &node : nullptr);
  return 0;
}

std::int64_t SimDisk::allocate(IoOp& op, SimOpenFile& file, const SimStart&) {
  if (!file.flags.write) return -EBADF;
  if (op.length == 0) return 0;
  if (op.offset > max_disk_size || op.length > max_disk_size) return -EINVAL;
  if (beyond_any_file(op.offset, op.length)) return -EFBIG;
  SimNode& node = *file.node;
  if (node.read_only) return -EPERM;
  Range range{op.offset, op.length};
  const std::uint64_t size = node.file->visible().size();
  if (node.type == SimNode::Type::device) {
    if (op.allocate == AllocateMode::preallocate) return -EOPNOTSUPP;
    if (!fits(range.offset, range.length, size)) return -EINVAL;
    if (!is_aligned(range.offset | range.length, node.logical_block)) return -EINVAL;
    if (op.allocate == AllocateMode::discard && prng_.chance(1, 2)) return 0;       // it reads as before
  } else if (op.allocate == AllocateMode::discard) {
    return -EOPNOTSUPP;
  }
  auto kind = SimChange::Kind::reserve;
  if (op.allocate == AllocateMode::zero_range) kind = SimChange::Kind::zero;
  if (op.allocate == AllocateMode::punch_hole || op.allocate == AllocateMode::discard) {
    kind = SimChange::Kind::punch;
    range = range.intersect({0, size});
    if (range.empty()) return 0;
  } else if (!has_space(node, range)) {
    return -ENOSPC;
  }
  node.file->change({kind, range, {}});
  touch(node);
  return 0;
}

std::int64_t SimDisk::truncate(IoOp& op, SimOpenFile& file, const SimStart&) {
  SimNode& node = *file.node;
  if (!file.flags.write || node.type == SimNode::Type::device) return -EINVAL;
  if (op.length > max_disk_size) return -EINVAL;
  node.file->change({SimChange::Kind::resize, {op.length, 0}, {}});
  touch(node);
  return 0;
}

std::int64_t SimDisk::extent(IoOp& op, SimOpenFile& file) {
  const SparseContent& content = file.node->file->visible();
  op.extra->extent = content.extent(op.offset);
  if (file.node->type == SimNode::Type::device)
    op.extra->extent = {true, content.size() - std::min(op.offset, content.size())};
  return 0;
}

std::int64_t SimDisk::stat(IoOp& op, SimOpenFile* file) {
  SimNodePtr node = file ? file->node : nullptr;
  if (!op.extra->path.empty()) {
    const SimNames::Place place = names_.locate(op.extra->path);
    if (place.error) return place.error;
    if (!place.node) return -ENOENT;
    node = place.node;
  }
  if (!node) return -EBADF;
  FileInfo info;
  switch (node->type) {
    case SimNode::Type::regular: info.type = FileInfo::Type::regular; break;
    case SimNode::Type::device: info.type = FileInfo::Type::block_device; break;
    case SimNode::Type::directory: info.type = FileInfo::Type::directory; break;
    case SimNode::Type::socket: info.type = FileInfo::Type::other; break;
  }
  if (node->file) {
    info.size = node->file->visible().size();
    info.allocated = node->file->visible().allocated();
  }
  if (node->type == SimNode::Type::device) info.allocated = info.size;
  info.logical_block = info.memory_align = node->logical_block;
  info.device = 1;
  info.inode = node->inode;
  info.change_time_ns = node->change_time_ns;
  info.read_only = node->read_only;
  op.extra->info = info;
  return 0;
}

}  // namespace tidemark
