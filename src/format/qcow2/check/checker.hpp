// Checker: one pass over an image's tables.  check.hpp says what for; the parts are
//
//   checker.cpp            the pass, and the words of reports
//   checker_tables.cpp     L1 and L2 tables
//   checker_extras.cpp     snapshots, bitmaps: what else there is that refers to clusters
//   checker_refcounts.cpp  refcount table and blocks
//   check_repair.cpp       what makes a pass's findings right
#pragma once

#include <map>

#include "format/qcow2/check/check.hpp"
#include "format/qcow2/check/check_counts.hpp"
#include "format/qcow2/check/check_entry.hpp"
#include "format/qcow2/layout/header.hpp"
#include "io/aligned.hpp"

namespace tidemark::qcow2 {

// An L2 table, and how many L1 entries refer to it.
struct TableUse {
  HostOffset at;
  std::uint64_t times = 1;
  std::int64_t active = -1;                // the index in the active L1 table, or -1
};

class Checker {
 public:
  Checker(Edge& file, Header header, CheckOptions& options, CheckReport& report);

  Task<> run();

  // The findings, for the repair.
  Edge& file() const noexcept { return file_; }
  const Header& header() const noexcept { return header_; }
  const Geometry& geometry() const noexcept { return header_.geometry; }
  const CheckOptions& options() const noexcept { return options_; }
  CheckCounts& counts() noexcept { return counts_; }
  const std::vector<std::uint64_t>& refcount_table() const noexcept { return refcount_table_; }
  const std::vector<std::uint64_t>& active_l1() const noexcept { return active_l1_; }
  bool refcounts_need_rebuild() const noexcept { return rebuild_; }
  const std::vector<TableUse>& tables() const noexcept { return tables_; }
  std::uint64_t end_cluster() const noexcept { return highest_ + 1; }
  bool extended() const noexcept { return header_.has(Incompatible::extended_l2); }
  bool external_data() const noexcept { return header_.has(Incompatible::data_file); }

  bool placed_well(std::uint64_t offset) const noexcept;       // a cluster of the file may lie there
  // Every reference to the cluster is one to an L2 table: it can be written as one.
  bool is_table_only(std::uint64_t offset) const noexcept;
  std::optional<std::uint64_t> block_at(std::uint64_t index) const noexcept;
  Task<> read(std::uint64_t at, MutableBytes into);
  // At each step of a long loop: fails where it is interrupted, which is heard of now and then.
  Task<> go_on();
  // The first piece of tables that the file has anything for, empty when there is none: what says nothing is not read, so
  // that the time is bounded by what the file holds, not by its size.
  Task<Range> next_written(Range tables);

 private:
  // checker.cpp
  template <class... Args>
  void corrupt(const char* format, const Args&... args);
  template <class... Args>
  void miscounted(const char* format, const Args&... args);
  template <class... Args>
  void say(const char* format, const Args&... args);
  bool count(std::uint64_t offset, std::uint64_t length, std::uint64_t times = 1);
  void advance(std::uint64_t bytes);
  Task<std::vector<std::uint64_t>> read_table(HostOffset at, std::uint64_t entries);
  bool alone(Range table);                                     // at the place of no other

  // checker_tables.cpp
  Task<> count_l1(HostOffset at, std::uint64_t entries, std::uint64_t times, bool active);
  void count_l1_entry(std::uint64_t raw, std::uint64_t times, std::int64_t active);
  void merge_tables();
  Task<> count_tables();
  void count_table(const TableUse& table, const std::byte* entries);
  void count_entry(const TableUse& table, std::uint64_t i, CheckEntry entry, std::uint64_t bitmap);
  void count_compressed(const TableUse& table, std::uint64_t i, CheckEntry entry, std::uint64_t bitmap);
  void count_standard(const TableUse& table, CheckEntry entry);
  enum class Level : std::uint8_t { l1, l2 };
  void check_copied(Level level, std::uint64_t raw, HostOffset at);

  // checker_extras.cpp
  Task<> count_snapshots();
  Task<bool> count_snapshot(std::uint64_t index, std::uint64_t& at);
  Task<> count_extensions();
  Task<> count_bitmaps(std::uint64_t directory, std::uint64_t length, std::uint32_t bitmaps);
  Task<> count_bitmap_table(std::uint64_t at, std::uint64_t entries);
  void count_bitmap_entry(std::uint64_t raw);

  // checker_refcounts.cpp
  Task<> load_refcounts();
  void note_ones(std::uint64_t index, const std::byte* block);
  Task<> compare_refcounts();
  void compare_block(std::uint64_t index, const std::byte* block);
  void compare_cluster(std::uint64_t cluster, std::uint64_t refcount);

  Edge& file_;
  const Header header_;
  CheckOptions& options_;
  CheckReport& report_;
  const std::uint64_t file_size_;
  CheckCounts counts_;
  std::vector<std::uint64_t> refcount_table_, active_l1_;
  std::vector<TableUse> tables_;           // sorted by place up to merged_
  std::size_t merged_ = 0;
  std::uint64_t contiguous_ = 0;           // where the next data cluster would lie if nothing was fragmented
  std::uint64_t highest_ = 0;              // cluster that is referenced or counted
  std::uint64_t done_ = 0, total_ = 1;     // bytes of tables
  std::map<std::uint64_t, std::uint64_t> long_tables_;         // start and end
  Extent seen_;                            // of the file, where it was last looked at
  bool rebuild_ = false;
  unsigned steps_ = 0;
};

// Where a message's words are made; of those that are kept only.
std::string check_text(const char* format, std::initializer_list<std::uint64_t> numbers);

template <class... Args>
void Checker::say(const char* format, const Args&... args) {
  if (report_.messages.size() < CheckReport::messages_max)
    report_.messages.push_back(check_text(format, {static_cast<std::uint64_t>(args)...}));
  else ++report_.messages_left_out;
}

template <class... Args>
void Checker::miscounted(const char* format, const Args&... args) {
  ++report_.corruptions;
  say(format, args...);
}

template <class... Args>
void Checker::corrupt(const char* format, const Args&... args) {
  ++report_.not_followed;
  miscounted(format, args...);
}

}  // namespace tidemark::qcow2
