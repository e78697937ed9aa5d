#include "io/sim/names.hpp"

#include <cerrno>
#include <set>

namespace tidemark {
namespace {

constexpr std::size_t name_max = 255, path_max = 4096;

std::vector<std::string> parts_of(const std::string& path) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t slash = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, slash - at);
    at = slash + 1;
    if (part.empty() || part == ".") continue;
    if (part != "..") parts.push_back(std::move(part));
    else if (!parts.empty()) parts.pop_back();
  }
  return parts;
}

}  // namespace

SimNames::SimNames() : root_(make(SimNode::Type::directory)) {}

void SimNames::become(const SimNames& other, const CopyNode& copy) {
  last_inode_ = other.last_inode_;
  made_ = other.made_;
  root_ = copy(other.root_);
  journal_ = other.journal_;
  for (Change& change : journal_)
    for (Setting& s : change.settings) {
      s.directory = copy(s.directory);
      s.node = copy(s.node);
    }
}

SimNodePtr SimNames::make(SimNode::Type type) {
  auto node = std::make_shared<SimNode>();
  node->type = type;
  node->inode = ++last_inode_;
  return node;
}

SimNames::Place SimNames::locate(const std::string& path) const {
  Place place;
  if (path.empty()) place.error = -ENOENT;
  if (path.size() >= path_max) place.error = -ENAMETOOLONG;
  if (path.find('\0') != path.npos) place.error = -EINVAL;
  if (place.error) return place;
  place.node = root_;
  for (std::string& part : parts_of(path)) {
    if (!place.node) place.error = -ENOENT;
    else if (!place.node->is_directory()) place.error = -ENOTDIR;
    else if (part.size() > name_max) place.error = -ENAMETOOLONG;
    if (place.error) return place;
    place.directory = std::move(place.node);
    const auto entry = place.directory->entries.find(part);
    place.node = entry == place.directory->entries.end() ? nullptr : entry->second;
    place.name = std::move(part);
  }
  if (path.back() == '/' && place.node && !place.node->is_directory()) place.error = -ENOTDIR;
  return place;
}

namespace {

void assign(SimEntries& entries, const std::string& name, const SimNodePtr& node) {
  if (node) entries[name] = node;
  else entries.erase(name);
}

}  // namespace

void SimNames::set(const Place& place, SimNodePtr node) {
  record({{place.directory, place.name, std::move(node)}});
}

void SimNames::move(const Place& from, const Place& to) {
  record({{from.directory, from.name, nullptr}, {to.directory, to.name, from.node}});
}

void SimNames::record(std::vector<Setting> settings) {
  for (const Setting& s : settings) assign(s.directory->entries, s.name, s.node);
  journal_.push_back({++made_, std::move(settings)});
}

void SimNames::sync(const SimNode* directory, std::uint64_t count) {
  std::set<Slot> needed;
  for (auto change = journal_.rbegin(); change != journal_.rend(); ++change) {
    bool durable = change->number <= count && !directory;
    for (const Setting& s : change->settings)
      if ((change->number <= count && s.directory.get() == directory) ||
          needed.contains({s.directory->inode, s.name}))
        durable = true;
    if (!durable) continue;
    change->durable = true;
    for (const Setting& s : change->settings) needed.insert({s.directory->inode, s.name});
  }
  settle();
}

void SimNames::settle() {
  for (const Change& change : journal_)
    if (change.durable)
      for (const Setting& s : change.settings) assign(s.directory->durable_entries, s.name, s.node);
  std::erase_if(journal_, [](const Change& change) { return change.durable; });
}

void SimNames::crash(Prng& prng, SimOptions::Names model) {
  // Independent lots alone would hardly ever keep or lose many changes together.
  const std::uint64_t mood = prng.below(4);
  const std::size_t point = prng.below(journal_.size() + 1);
  std::set<Slot> lost;
  for (std::size_t i = 0; i < journal_.size(); ++i) {
    Change& change = journal_[i];
    if (model == SimOptions::Names::ordered) {
      change.durable = i < point;
      continue;
    }
    change.durable = mood == 0 ? false : mood == 1 ? true : prng.chance(1, 2);
    for (const Setting& s : change.settings)
      if (lost.contains({s.directory->inode, s.name})) change.durable = false;
    if (!change.durable)
      for (const Setting& s : change.settings) lost.insert({s.directory->inode, s.name});
  }
  settle();
  journal_.clear();
  std::vector<SimNodePtr> directories{root_};
  while (!directories.empty()) {
    const SimNodePtr directory = std::move(directories.back());
    directories.pop_back();
    directory->entries = directory->durable_entries;
    for (const auto& [name, node] : directory->entries)
      if (node->is_directory()) directories.push_back(node);
  }
}

std::map<std::uint64_t, SimNodePtr> SimNames::reachable() const {
  std::map<std::uint64_t, SimNodePtr> found;
  std::vector<SimNodePtr> left{root_};
  while (!left.empty()) {
    const SimNodePtr node = std::move(left.back());
    left.pop_back();
    if (!found.emplace(node->inode, node).second) continue;
    for (const auto& [name, child] : node->entries) left.push_back(child);
  }
  return found;
}

}  // namespace tidemark
