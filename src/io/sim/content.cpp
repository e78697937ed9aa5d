#include "io/sim/content.hpp"

#include <algorithm>

namespace tidemark {
namespace {

constexpr std::uint64_t page_size = SparseContent::page_size;

constexpr Range range_of_page(std::uint64_t number) { return {number * page_size, page_size}; }
constexpr std::uint64_t first_page(Range range) { return range.offset / page_size; }
constexpr std::uint64_t end_page(Range range) { return div_up(range.end(), page_size); }

// Calls f(page number, part of `range` in that page) for every page that `range` touches.
template <class F>
void for_each_page(Range range, F&& f) {
  for (std::uint64_t page = first_page(range); page < end_page(range); ++page)
    f(page, range_of_page(page).intersect(range));
}

}  // namespace

void IntervalSet::add(std::uint64_t first, std::uint64_t end) {
  if (first >= end) return;
  auto it = intervals_.upper_bound(first);
  if (it != intervals_.begin() && std::prev(it)->second >= first) --it;
  while (it != intervals_.end() && it->first <= end) {
    first = std::min(first, it->first);
    end = std::max(end, it->second);
    count_ -= it->second - it->first;
    it = intervals_.erase(it);
  }
  intervals_.emplace(first, end);
  count_ += end - first;
}

void IntervalSet::remove(std::uint64_t first, std::uint64_t end) {
  if (first >= end) return;
  auto it = intervals_.upper_bound(first);
  if (it != intervals_.begin() && std::prev(it)->second > first) --it;
  while (it != intervals_.end() && it->first < end) {
    const auto [had_first, had_end] = *it;
    it = intervals_.erase(it);
    if (had_first < first) intervals_.emplace(had_first, first);
    if (had_end > end) intervals_.emplace(end, had_end);
    count_ -= std::min(had_end, end) - std::max(had_first, first);
  }
}

std::uint64_t IntervalSet::count_in(std::uint64_t first, std::uint64_t end) const {
  std::uint64_t count = 0;
  auto it = intervals_.upper_bound(first);
  if (it != intervals_.begin() && std::prev(it)->second > first) --it;
  for (; it != intervals_.end() && it->first < end; ++it)
    count += std::min(it->second, end) - std::max(it->first, first);
  return count;
}

void IntervalSet::copy(const IntervalSet& from, std::uint64_t first, std::uint64_t end) {
  remove(first, end);
  auto it = from.intervals_.upper_bound(first);
  if (it != from.intervals_.begin() && std::prev(it)->second > first) --it;
  for (; it != from.intervals_.end() && it->first < end; ++it)
    add(std::max(it->first, first), std::min(it->second, end));
}

std::uint64_t SparseContent::missing(Range range) const {
  if (range.empty()) return 0;
  const std::uint64_t first = first_page(range), end = end_page(range);
  return (end - first - allocated_.count_in(first, end)) * page_size;
}

FileExtent SparseContent::extent(std::uint64_t offset) const {
  if (offset >= size_) return {false, 0};
  std::uint64_t page = offset / page_size;
  auto it = pages().lower_bound(page);
  const bool data = it != pages().end() && it->first == page;
  if (data)
    while (it != pages().end() && it->first == page) ++it, ++page;
  else
    page = it == pages().end() ? div_up(size_, page_size) : it->first;
  return {data, std::min(page * page_size, size_) - offset};
}

void SparseContent::read(std::uint64_t offset, MutableBytes into) const {
  if (into.empty()) return;                      // and may be nowhere
  const Range range{offset, into.size()};
  std::size_t done = 0;
  const auto zeroes_to = [&](std::size_t end) { std::memset(into.data() + done, 0, end - done); };
  for (auto it = pages().lower_bound(first_page(range)); it != pages().end(); ++it) {
    const Range part = range_of_page(it->first).intersect(range);
    if (part.empty()) break;
    const std::size_t at = part.offset - offset;
    zeroes_to(at);
    std::memcpy(into.data() + at, it->second->data() + part.offset % page_size, part.length);
    done = at + part.length;
  }
  zeroes_to(into.size());
}

std::vector<std::uint64_t> SparseContent::pages_in(Range range) const {
  std::vector<std::uint64_t> numbers;
  if (range.empty()) return numbers;
  for (auto it = pages().lower_bound(first_page(range)); it != pages().end(); ++it) {
    if (it->first >= end_page(range)) break;
    numbers.push_back(it->first);
  }
  return numbers;
}

SparseContent::Pages& SparseContent::own_pages() {
  if (pages_.use_count() > 1) pages_ = std::make_shared<Pages>(*pages_);
  return *pages_;
}

SparseContent::Page& SparseContent::writable(std::uint64_t number) {
  std::shared_ptr<Page>& page = own_pages()[number];
  if (!page) page = std::make_shared<Page>();
  else if (page.use_count() > 1) page = std::make_shared<Page>(*page);
  return *page;
}

void SparseContent::write(std::uint64_t offset, Bytes from) {
  const Range range{offset, from.size()};
  for_each_page(range, [&](std::uint64_t page, Range part) {
    std::memcpy(writable(page).data() + part.offset % page_size,
                from.data() + (part.offset - offset), part.length);
  });
  reserve(range);
}

void SparseContent::reserve(Range range) {
  if (range.empty()) return;
  allocated_.add(first_page(range), end_page(range));
  size_ = std::max(size_, range.end());
}

void SparseContent::zero(Range range) {
  for (const std::uint64_t page : pages_in(range)) {
    const Range part = range_of_page(page).intersect(range);
    if (part.length == page_size) own_pages().erase(page);
    else std::memset(writable(page).data() + part.offset % page_size, 0, part.length);
  }
}

void SparseContent::punch(Range range) {
  zero(range);
  const Range whole = range.narrowed(page_size);
  allocated_.remove(first_page(whole), end_page(whole));
}

void SparseContent::resize(std::uint64_t size) {
  size_ = size;
  trim();
}

void SparseContent::trim() {
  punch({size_, align_down(~std::uint64_t{0}, page_size) - size_});
}

void SparseContent::copy(const SparseContent& from, Range range) {
  if (range.empty()) return;
  std::vector<std::uint64_t> mine = pages_in(range), theirs = from.pages_in(range), both;
  std::ranges::set_union(mine, theirs, std::back_inserter(both));
  for (const std::uint64_t page : both) {
    const Range part = range_of_page(page).intersect(range);
    const auto source = from.pages().find(page);
    if (part.length == page_size && source == from.pages().end()) {
      own_pages().erase(page);
    } else if (part.length == page_size) {
      own_pages()[page] = source->second;
    } else {
      std::byte* to = writable(page).data() + part.offset % page_size;
      if (source == from.pages().end()) std::memset(to, 0, part.length);
      else std::memcpy(to, source->second->data() + part.offset % page_size, part.length);
    }
  }
  allocated_.copy(from.allocated_, first_page(range), end_page(range));
  for (const std::uint64_t page : pages_in(range)) allocated_.add(page, page + 1);
}

}  // namespace tidemark
