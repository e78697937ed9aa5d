// TopTable: an L1 or refcount table, whole in memory (at most 32 and 8 MiB), written back by pages.
#pragma once

#include <set>

#include "format/qcow2/tables/image_file.hpp"
#include "format/qcow2/tables/table_source.hpp"

namespace tidemark::qcow2 {

class TopTable final : public TableSource {
 public:
  explicit TopTable(ImageFile& file) : file_(file) {}
  TopTable(const TopTable&) = delete;

  Task<> load(HostOffset at, std::uint64_t entries);

  HostOffset at() const noexcept { return at_; }
  std::uint64_t size() const noexcept { return entries_.size(); }
  std::uint64_t operator[](std::uint64_t i) const noexcept { return entries_[i]; }
  void set(std::uint64_t i, std::uint64_t value) {
    TM_ASSERT(i < entries_.size());
    entries_[i] = value;
    dirty_pages_.insert(i / page_entries);
  }

  // A larger table elsewhere: writes it there whole, without making it the current one...
  Task<> write_copy(HostOffset at, const std::vector<std::uint64_t>& entries);
  const std::vector<std::uint64_t>& entries() const noexcept { return entries_; }
  // ...and, once the header points at it, lets it take the place of this one.
  void replace(HostOffset at, std::vector<std::uint64_t> entries) noexcept;

  bool dirty() const noexcept override { return !dirty_pages_.empty(); }
  void take(std::vector<TableWrite>& writes) override;
  void settle(bool written) noexcept override;

 private:
  static constexpr std::uint64_t page_entries = 512;

  ImageFile& file_;
  HostOffset at_;
  std::vector<std::uint64_t> entries_;
  std::set<std::uint64_t> dirty_pages_, taken_pages_;
};

}  // namespace tidemark::qcow2
