#include "tests/sim/engine_model.hpp"

#include <algorithm>
#include <cstring>

namespace tidemark::sim {

void fill_with(MutableBytes bytes, Stamp stamp) {
  for (std::size_t at = 0; at < bytes.size(); at += 8) store_be(bytes.data() + at, std::uint64_t{stamp});
}

Result<Stamps> stamps_of(Bytes content) {
  Stamps stamps(content.size() / sector);
  for (std::size_t i = 0; i < stamps.size(); ++i) {
    const std::byte* at = content.data() + i * sector;
    stamps[i] = static_cast<Stamp>(load_be<std::uint64_t>(at));
    // Each word is the one before it.
    if (std::memcmp(at, at + 8, sector - 8) == 0 && load_be<std::uint64_t>(at) == stamps[i]) continue;
    return Error(Errc::corrupt, "sector at " + std::to_string(i * sector) + " holds no one stamp");
  }
  return stamps;
}

bool Point::allows(std::size_t index, Stamp stamp) const noexcept {
  if (at(index) == stamp) return true;
  return std::ranges::any_of(maybe, [&](const Maybe& m) { return m.stamp == stamp && m.range.contains(index * sector); });
}

std::uint64_t DiskModel::begin(Range range, Stamp stamp) {
  for (const auto& point : watched_) point->maybe.push_back({range, stamp});
  recent_.push_back({++begun_, range, stamp});
  return begun_;
}

DiskModel::Write* DiskModel::find(std::uint64_t number) {
  const auto found = std::ranges::find(recent_, number, &Write::number);
  TM_ASSERT(found != recent_.end());
  return &*found;
}

void DiskModel::apply(const Write& write, Stamps& to) const {
  const std::size_t first = write.range.offset / sector, count = write.range.length / sector;
  for (std::size_t i = 0; i < count && first + i < to.size(); ++i)
    to[first + i] = write.at(first + i);
}

void DiskModel::end(std::uint64_t number, bool durable) {
  Write& write = *find(number);
  write.durable = durable;
  write.state = Write::State::ended;
  ++ended_;
  apply(write, visible_);
}

void DiskModel::fail(std::uint64_t number) { find(number)->state = Write::State::failed; }

Result<> DiskModel::settle(std::uint64_t number, const Stamps& seen) {
  Write& write = *find(number);
  const std::size_t first = write.range.offset / sector;
  for (std::size_t i = 0; i < seen.size(); ++i)
    if (seen[i] != write.stamp && seen[i] != visible_[first + i])
      return Error(Errc::corrupt, "sector at " + std::to_string((first + i) * sector) + " shows stamp " + std::to_string(seen[i]) +
                                      ", not " + std::to_string(write.stamp) + " or " + std::to_string(visible_[first + i]));
  write.seen = seen;
  end(number);
  return {};
}

DiskModel::Flush DiskModel::begin_flush() const {
  Flush flush{{}, sizes_gone_ + sizes_.size() - (resizing_ ? 1 : 0)};
  for (const Write& write : recent_)
    if (write.state == Write::State::ended) flush.writes.push_back(write.number);
  return flush;
}

// A crash may still bring what was under way, and older than what is durable now: that is allowed to it.
void DiskModel::end_flush(const Flush& flush) {
  if (flush.sizes > sizes_gone_ + 1) {           // else another flush has said so already
    const std::uint64_t gone = flush.sizes - sizes_gone_ - 1;
    durable_.resize(sizes_[gone] / sector);
    sizes_.erase(sizes_.begin(), sizes_.begin() + static_cast<std::ptrdiff_t>(gone));
    sizes_gone_ += gone;
  }
  for (const Write& write : recent_)
    if (std::ranges::binary_search(flush.writes, write.number)) apply(write, durable_);
  std::erase_if(recent_, [&](const Write& write) { return std::ranges::binary_search(flush.writes, write.number); });
}

void DiskModel::begin_resize(std::uint64_t size) {
  const std::uint64_t low = std::min(size, this->size()), high = std::max(size, this->size());
  sizes_.push_back(size);
  resizing_ = true;
  (void)begin({low, high - low}, 0);
}

void DiskModel::end_resize(bool well) {
  resizing_ = false;
  Write& write = recent_.back();
  write.state = Write::State::ended;
  if (well) visible_.resize(sizes_.back() / sector);
  else apply(write, visible_);
}

PointPtr DiskModel::now() const {
  auto point = std::make_shared<Point>();
  point->content = visible_;
  for (const Write& write : recent_)
    if (write.state == Write::State::failed) point->maybe.push_back({write.range, write.stamp});
  return point;
}

std::shared_ptr<Point> DiskModel::watch() {
  auto point = std::make_shared<Point>();
  point->content = visible_;
  for (const Write& write : recent_)
    if (write.state != Write::State::ended) point->maybe.push_back({write.range, write.stamp});
  watched_.push_back(point);
  return point;
}

bool DiskModel::may_hold(std::size_t index, Stamp stamp) const noexcept {
  bool may = stamp == (index < durable_.size() ? durable_[index] : 0);
  for (const Write& write : recent_) {
    if (!write.range.contains(index * sector)) continue;
    may = (may && !write.durable) || stamp == write.at(index) || (!write.durable && stamp == write.stamp);
  }
  return may;
}

std::string DiskModel::known() const {
  std::string text = "sizes";
  for (const std::uint64_t size : sizes_) text += " " + std::to_string(size);
  text += ", writes since";
  for (const Write& write : recent_)
    text += " " + std::to_string(write.range.offset) + "+" + std::to_string(write.range.length);
  return text;
}

// A file that has grown by an amount that was lost ends where the last write to it does.
bool DiskModel::may_have_size(std::uint64_t size) const noexcept {
  const auto ends_there = [&](const Write& write) { return write.range.end() == size; };
  return std::ranges::find(sizes_, size) != sizes_.end() || std::ranges::any_of(recent_, ends_there);
}

Result<> DiskModel::check(const Stamps& seen) const {
  if (!may_have_size(seen.size() * sector))
    return Error(Errc::corrupt, "the disk has " + std::to_string(seen.size() * sector) + " bytes, which it never had; " + known());
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (may_hold(i, seen[i])) continue;
    const Stamp durable = i < durable_.size() ? durable_[i] : 0;
    return Error(Errc::corrupt, "sector at " + std::to_string(i * sector) + " holds stamp " + std::to_string(seen[i]) +
                                    ", which is not the durable " + std::to_string(durable) + " or anything written since");
  }
  return {};
}

void DiskModel::restart(const Stamps& seen, bool durable) {
  watched_.clear();
  resizing_ = false;
  visible_ = seen;
  if (durable) {
    durable_ = seen;
    recent_.clear();
    sizes_ = {size()};
    return;
  }
  if (sizes_.back() != size()) sizes_.push_back(size());
  for (Write& write : recent_) write.state = Write::State::ended;
  // What is seen is as if written last of all: what a daemon held in memory is gone with it.
  recent_.push_back({++begun_, {0, size()}, no_stamp, Write::State::ended, seen});
}

}  // namespace tidemark::sim
