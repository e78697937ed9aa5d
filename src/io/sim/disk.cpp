#include "io/sim/disk.hpp"

#include <cerrno>

namespace tidemark {

SimStart SimDisk::start(const SimOpenFile* file) const {
  SimStart start;
  start.name_changes = names_.changes_made();
  if (file && file->node->file) start.file_changes = file->node->file->changes_made();
  return start;
}

std::int64_t SimDisk::run(IoOp& op, SimOpenFile* file, const SimStart& start) {
  using Kind = IoOp::Kind;
  const bool refused = start.fail_errno != 0 && op.kind != Kind::write && op.kind != Kind::sync;
  if (refused) return -start.fail_errno;
  switch (op.kind) {
    case Kind::stat: return stat(op, file);
    case Kind::rename: return rename(op);
    case Kind::link: return link(op);
    case Kind::unlink: return unlink(op);
    case Kind::mkdir: return mkdir(op);
    case Kind::rmdir: return rmdir(op);
    case Kind::list: return list(op);
    case Kind::sync_dir: return sync_dir(op, start);
    default: break;
  }
  if (!file) return -EBADF;
  if (op.kind == Kind::lock) return file->node->locks.request(file->id, op.extra->lock);
  if (op.kind == Kind::sync) return sync(*file, start);
  if (op.kind == Kind::write_back) return 0;
  if (file->node->is_directory()) return op.kind == Kind::read ? -EISDIR : -EBADF;
  switch (op.kind) {
    case Kind::read: return read(op, *file, start);
    case Kind::write: return write(op, *file, start);
    case Kind::allocate: return allocate(op, *file, start);
    case Kind::truncate: return truncate(op, *file, start);
    case Kind::extent: return extent(op, *file);
    default: return -EINVAL;
  }
}

SimDisk::Nodes SimDisk::become(const SimDisk& other) {
  Nodes nodes;
  SimNames::CopyNode copy = [&](const SimNodePtr& node) {
    if (!node) return SimNodePtr();
    SimNodePtr& made = nodes[node.get()];
    if (made) return made;
    made = std::make_shared<SimNode>();
    const SimNodePtr mine = made;                 // `made` moves when there are more
    mine->type = node->type;
    mine->inode = node->inode;
    mine->logical_block = node->logical_block;
    mine->read_only = node->read_only;
    mine->change_time_ns = node->change_time_ns;
    mine->durable_change_time_ns = node->durable_change_time_ns;
    const bool device = node->type == SimNode::Type::device;
    if (node->file) mine->file = std::make_unique<SimFile>(*node->file, device ? nullptr : &space_);
    for (const auto& [name, child] : node->entries) mine->entries[name] = copy(child);
    for (const auto& [name, child] : node->durable_entries) mine->durable_entries[name] = copy(child);
    return mine;
  };
  names_.become(other.names_, copy);
  opened_ = other.opened_;
  return nodes;
}

void SimDisk::crash(Prng& fates) {
  names_.crash(fates, options_.names);
  for (const auto& [inode, node] : names_.reachable()) {
    if (fates.chance(1, 2)) node->change_time_ns = node->durable_change_time_ns;
    node->durable_change_time_ns = node->change_time_ns;
    if (node->file) node->file->crash(fates, options_.sector);
  }
}

void SimDisk::sync_all() {
  names_.sync(nullptr, names_.changes_made());
  for (const auto& [inode, node] : names_.reachable()) {
    node->durable_change_time_ns = node->change_time_ns;
    if (node->file) node->file->sync(node->file->changes_made());
  }
}

void SimDisk::place_node(const std::string& path, SimNodePtr node) {
  for (std::size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1))
    make_directory(path.substr(0, slash));
  const SimNames::Place place = names_.locate(path);
  TM_ASSERT(place.error == 0 && place.directory);
  TM_ASSERT(!place.node || !place.node->is_directory());
  names_.set(place, node);
  names_.sync(place.directory.get(), names_.changes_made());
  if (node->file) node->file->sync(node->file->changes_made());
  node->durable_change_time_ns = node->change_time_ns;
}

void SimDisk::make_directory(const std::string& path) {
  const SimNames::Place place = names_.locate(path);
  if (!place.node) place_node(path, make_node(SimNode::Type::directory));
}

void SimDisk::make_device(const std::string& path, std::uint64_t size, std::uint32_t logical_block,
                          bool read_only) {
  SimNodePtr node = make_node(SimNode::Type::device);
  node->logical_block = logical_block;
  node->read_only = read_only;
  node->file->change({SimChange::Kind::resize, {size, 0}, {}});
  place_node(path, std::move(node));
}

void SimDisk::resize_device(const std::string& path, std::uint64_t size) {
  const SimNodePtr node = names_.locate(path).node;
  TM_ASSERT(node && node->type == SimNode::Type::device);
  node->file->change({SimChange::Kind::resize, {size, 0}, {}});
  node->file->sync(node->file->changes_made());
}

void SimDisk::import_file(const std::string& path, Bytes content) {
  SimNodePtr node = make_node(SimNode::Type::regular);
  const Range all{0, content.size()};
  node->file->change({SimChange::Kind::write, all, std::make_shared<std::vector<std::byte>>(content.begin(), content.end())});
  place_node(path, std::move(node));
}

const SimFile* SimDisk::file(const std::string& path) const {
  const SimNames::Place place = names_.locate(path);
  return place.error == 0 && place.node ? place.node->file.get() : nullptr;
}

std::vector<std::byte> SimDisk::export_file(const std::string& path) const {
  const SimFile* file = this->file(path);
  TM_ASSERT(file && file->visible().size() <= 4 * GiB);
  std::vector<std::byte> content(file->visible().size());
  file->visible().read(0, content);
  return content;
}

std::uint64_t SimDisk::export_file(const std::string& path,
                                   const std::function<void(std::uint64_t, Bytes)>& sink) const {
  const SimFile* file = this->file(path);
  TM_ASSERT(file);
  const SparseContent& content = file->visible();
  std::vector<std::byte> page(SparseContent::page_size);
  for (const std::uint64_t number : content.pages_in({0, content.size()})) {
    const std::uint64_t at = number * SparseContent::page_size;
    const MutableBytes part = std::span(page).first(std::min(page.size(), content.size() - at));
    content.read(at, part);
    sink(at, part);
  }
  return content.size();
}

}  // namespace tidemark
