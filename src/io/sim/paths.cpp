// The operations of SimDisk on names, with Linux's answers to bad requests.
#include <cerrno>

#include "io/sim/disk.hpp"

namespace tidemark {
namespace {

// True when `node` is `directory` or lies below it.
bool lies_in(const SimNode& node, const SimNode& directory) {
  if (&node == &directory) return true;
  for (const auto& [name, child] : directory.entries)
    if (child->is_directory() && lies_in(node, *child)) return true;
  return false;
}

std::int64_t cannot_replace(const SimNode& moved, const SimNode& old) {
  if (old.is_directory() && !moved.is_directory()) return -EISDIR;
  if (moved.is_directory() && !old.is_directory()) return -ENOTDIR;
  return old.entries.empty() ? 0 : -ENOTEMPTY;
}

}  // namespace

SimNodePtr SimDisk::make_node(SimNode::Type type) {
  SimNodePtr node = names_.make(type);
  node->logical_block = options_.logical_block;
  if (type == SimNode::Type::regular) node->file = std::make_unique<SimFile>(&space_);
  if (type == SimNode::Type::device) node->file = std::make_unique<SimFile>(nullptr);
  touch(*node);
  return node;
}

std::int64_t SimDisk::create(const SimNames::Place& place, SimNodePtr& node) {
  if (!place.directory) return -EISDIR;
  node = make_node(SimNode::Type::regular);
  names_.set(place, node);
  return 0;
}

std::int64_t SimDisk::open(IoOp& op, const SimStart& start, std::shared_ptr<SimOpenFile>& file) {
  if (start.fail_errno) return -start.fail_errno;
  const OpenFlags& flags = op.extra->open;
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  SimNodePtr node = place.node;
  const bool plain = !flags.temporary;
  if (!node && !(plain && flags.create)) return -ENOENT;
  if (node && plain && flags.create && flags.exclusive) return -EEXIST;
  if (!node)
    if (const std::int64_t bad = create(place, node); bad < 0) return bad;
  if ((flags.directory || flags.temporary) && !node->is_directory()) return -ENOTDIR;
  if (flags.temporary) {
    if (!flags.write) return -EINVAL;
    node = make_node(SimNode::Type::regular);
  }
  if (node->is_directory() && flags.write) return -EISDIR;
  if (node->type == SimNode::Type::socket) return -ENXIO;
  if (plain && flags.truncate && node->type == SimNode::Type::regular) {
    node->file->change({SimChange::Kind::resize, {0, 0}, {}});
    touch(*node);
  }
  file = std::make_shared<SimOpenFile>(std::move(node), flags, ++opened_);
  return 0;
}

std::int64_t SimDisk::bind(const std::string& path, const std::function<bool(std::uint64_t)>& in_use,
                           std::uint64_t& inode) {
  const SimNames::Place place = names_.locate(path);
  if (place.error) return place.error;
  if (place.node && (place.node->type != SimNode::Type::socket || in_use(place.node->inode)))
    return -EADDRINUSE;
  SimNodePtr node = make_node(SimNode::Type::socket);     // a stale one is replaced
  names_.set(place, node);
  inode = node->inode;
  return 0;
}

std::int64_t SimDisk::rename(IoOp& op) {
  const SimNames::Place from = names_.locate(op.extra->path), to = names_.locate(op.extra->path2);
  if (from.error) return from.error;
  if (!from.node) return -ENOENT;
  if (to.error) return to.error;
  if (!from.directory || !to.directory) return -EBUSY;
  if (to.node && op.no_replace) return -EEXIST;
  if (from.node == to.node) return 0;
  if (from.node->is_directory() && lies_in(*to.directory, *from.node)) return -EINVAL;
  if (to.node)
    if (const std::int64_t bad = cannot_replace(*from.node, *to.node); bad < 0) return bad;
  names_.move(from, to);
  touch(*from.node);
  return 0;
}

std::int64_t SimDisk::link(IoOp& op) {
  const SimNames::Place from = names_.locate(op.extra->path), to = names_.locate(op.extra->path2);
  if (from.error) return from.error;
  if (!from.node) return -ENOENT;
  if (to.error) return to.error;
  if (to.node) return -EEXIST;
  if (from.node->is_directory()) return -EPERM;
  names_.set(to, from.node);
  touch(*from.node);
  return 0;
}

std::int64_t SimDisk::unlink(IoOp& op) {
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  if (!place.node) return -ENOENT;
  if (place.node->is_directory()) return -EISDIR;
  touch(*place.node);
  names_.set(place, nullptr);
  return 0;
}

std::int64_t SimDisk::mkdir(IoOp& op) {
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  if (place.node) return -EEXIST;
  names_.set(place, make_node(SimNode::Type::directory));
  return 0;
}

std::int64_t SimDisk::rmdir(IoOp& op) {
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  if (!place.node) return -ENOENT;
  if (!place.node->is_directory()) return -ENOTDIR;
  if (!place.directory) return -EBUSY;
  if (!place.node->entries.empty()) return -ENOTEMPTY;
  names_.set(place, nullptr);
  return 0;
}

std::int64_t SimDisk::list(IoOp& op) {
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  if (!place.node) return -ENOENT;
  if (!place.node->is_directory()) return -ENOTDIR;
  op.extra->names.clear();
  for (const auto& [name, node] : place.node->entries) op.extra->names.push_back(name);
  return 0;
}

std::int64_t SimDisk::sync_dir(IoOp& op, const SimStart& start) {
  const SimNames::Place place = names_.locate(op.extra->path);
  if (place.error) return place.error;
  if (!place.node) return -ENOENT;
  if (!place.node->is_directory()) return -ENOTDIR;
  synced(*place.node, start, place.node.get());
  return 0;
}

}  // namespace tidemark
