#include "format/qcow2/tables/top_table.hpp"

#include <algorithm>

namespace tidemark::qcow2 {
namespace {

// A page of a table that has fewer entries is as long as they are.
AlignedBuffer encode(const std::vector<std::uint64_t>& entries, std::uint64_t first, std::uint64_t count) {
  AlignedBuffer bytes(count * entry_bytes);
  for (std::uint64_t i = 0; i < count; ++i) store_be(bytes.data() + i * entry_bytes, entries[first + i]);
  return bytes;
}

}  // namespace

Task<> TopTable::load(HostOffset at, std::uint64_t entries) {
  AlignedBuffer bytes(entries * entry_bytes);
  co_await file_.read(at, bytes.bytes());
  std::vector<std::uint64_t> loaded(entries);
  for (std::uint64_t i = 0; i < entries; ++i) loaded[i] = load_be<std::uint64_t>(bytes.data() + i * entry_bytes);
  replace(at, std::move(loaded));
}

Task<> TopTable::write_copy(HostOffset at, const std::vector<std::uint64_t>& entries) {
  AlignedBuffer bytes = encode(entries, 0, entries.size());
  co_await file_.write(at, bytes.bytes());
}

void TopTable::replace(HostOffset at, std::vector<std::uint64_t> entries) noexcept {
  at_ = at;
  entries_ = std::move(entries);
  dirty_pages_.clear();
  taken_pages_.clear();
}

void TopTable::take(std::vector<TableWrite>& writes) {
  for (const std::uint64_t page : dirty_pages_) {
    const std::uint64_t first = page * page_entries;
    const std::uint64_t count = std::min<std::uint64_t>(page_entries, entries_.size() - first);
    writes.push_back({at_ + first * entry_bytes, encode(entries_, first, count)});
  }
  taken_pages_ = std::exchange(dirty_pages_, {});
}

void TopTable::settle(bool written) noexcept {
  if (!written) dirty_pages_.merge(taken_pages_);
  taken_pages_.clear();
}

}  // namespace tidemark::qcow2
