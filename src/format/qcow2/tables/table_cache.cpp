#include "format/qcow2/tables/table_cache.hpp"

namespace tidemark::qcow2 {

TableCache::TableCache(Executor& executor, ImageFile& file, DebugEvent load, std::uint64_t slice_size, std::size_t slices_max)
    : file_(file), load_(load), slice_size_(slice_size), slices_max_(slices_max), loaded_(executor) {}

Task<TableCache::Pin> TableCache::get(HostOffset at) {
  for (;;) {
    const auto found = slices_.find(at.value);
    if (found == slices_.end()) break;
    if (!found->second->loading_) {
      found->second->used_ = true;
      co_return Pin(*found->second);
    }
    co_await loaded_.wait();             // it may fail to load, or be forgotten: look again
  }
  make_room();
  all_.push_back(std::unique_ptr<Slice>(new Slice(at, slice_size_)));
  Pin pin(*all_.back());
  slices_.emplace(at.value, &*pin);
  co_await load(*pin);
  co_return pin;
}

Task<> TableCache::load(Slice& slice) {
  slice.loading_ = true;
  file_.tell(load_);
  const Result<> read = co_await file_.read(slice.at_, slice.bytes_.bytes()).result();
  slice.loading_ = false;
  if (!read && !std::exchange(slice.forgotten_, true)) slices_.erase(slice.at_.value);
  loaded_.notify_all();
  co_await unwrap(read);
}

void TableCache::make_room() noexcept {
  // One sweep: drops what is idle and was not used since the last one, until there is room for one
  // more; twice around at most, the second time finds nothing used.
  for (std::size_t steps = 2 * all_.size(); all_.size() >= slices_max_ && steps != 0; --steps) {
    if (hand_ >= all_.size()) hand_ = 0;
    Slice& slice = *all_[hand_];
    const bool droppable = slice.idle() && !slice.listed_;
    if (!droppable || (std::exchange(slice.used_, false) && !slice.forgotten_)) {
      ++hand_;
      continue;
    }
    if (!slice.forgotten_) slices_.erase(slice.at_.value);
    std::swap(all_[hand_], all_.back());
    all_.pop_back();
  }
}

void TableCache::drop_unused() noexcept {
  std::erase_if(all_, [this](const std::unique_ptr<Slice>& slice) {
    if (!slice->idle() || slice->listed_ || (std::exchange(slice->used_, false) && !slice->forgotten_)) return false;
    if (!slice->forgotten_) slices_.erase(slice->at_.value);
    return true;
  });
  hand_ = 0;
}

void TableCache::forget(Range host) noexcept {
  for (std::uint64_t at = host.offset; at < host.end(); at += slice_size_) {
    const auto found = slices_.find(at);
    if (found == slices_.end()) continue;
    found->second->forgotten_ = true;
    found->second->dirty_ = false;
    slices_.erase(found);
  }
}

void TableCache::forget_all() noexcept {
  for (const auto& [at, slice] : slices_) {
    slice->forgotten_ = true;
    slice->dirty_ = false;
  }
  slices_.clear();
}

void TableCache::take(std::vector<TableWrite>& writes) {
  for (Slice* slice : dirty_) {
    slice->listed_ = false;
    if (!std::exchange(slice->dirty_, false)) continue;
    TableWrite write{slice->at_, AlignedBuffer(slice_size_)};
    std::memcpy(write.bytes.data(), slice->data(), slice_size_);
    writes.push_back(std::move(write));
    taken_.emplace_back(*slice);
  }
  dirty_.clear();
}

void TableCache::settle(bool written) noexcept {
  if (!written)
    for (Pin& pin : taken_) changed(*pin);
  taken_.clear();
}

}  // namespace tidemark::qcow2
