#include "format/qcow2/check/checker.hpp"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "block/node.hpp"

namespace tidemark::qcow2 {

// {} is a decimal number, {x} one in hex.
std::string check_text(const char* format, std::initializer_list<std::uint64_t> numbers) {
  std::string text;
  auto number = numbers.begin();
  for (const char* at = format; *at; ++at) {
    if (*at != '{') {
      text += *at;
      continue;
    }
    const bool hex = at[1] == 'x';
    at += hex ? 2 : 1;
    char digits[24];
    if (hex) (void)std::snprintf(digits, sizeof digits, "%" PRIx64, *number++);
    else (void)std::snprintf(digits, sizeof digits, "%" PRIu64, *number++);
    text += digits;
  }
  return text;
}

Checker::Checker(Edge& file, Header header, CheckOptions& options, CheckReport& report)
    : file_(file), header_(std::move(header)), options_(options), report_(report), file_size_(file.size()),
      counts_(std::min(CheckCounts::clusters_max, header_.geometry.clusters_for(file.size()))) {}

// Tables that are not in the file, or lie in a cache, are gone through without a wait.
Task<> Checker::go_on() {
  constexpr unsigned steps_at_once = 16;
  if (++steps_ % steps_at_once == 0) co_await file_.node().reactor().yield();
  if (options_.interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
}

void Checker::advance(std::uint64_t bytes) {
  done_ += bytes;
  if (options_.progress) options_.progress(std::min(done_, total_), total_);
}

bool Checker::placed_well(std::uint64_t offset) const noexcept {
  return geometry().cluster_aligned(offset) && (offset >> geometry().cluster_bits) < counts_.clusters();
}

Task<> Checker::read(std::uint64_t at, MutableBytes into) {
  const Range there = Range{at, into.size()}.intersect({0, file_size_});
  if (!there.empty()) co_await file_.read(at, Buffers(into.first(there.length)));
  Buffers(into.subspan(there.length)).fill_zero();
}

Task<std::vector<std::uint64_t>> Checker::read_table(HostOffset at, std::uint64_t entries) {
  std::vector<std::uint64_t> table(entries);
  const MutableBytes bytes = std::as_writable_bytes(std::span(table));
  co_await read(at.value, bytes);
  for (std::uint64_t& entry : table) entry = load_be<std::uint64_t>(reinterpret_cast<const std::byte*>(&entry));
  co_return std::move(table);
}

bool Checker::alone(Range table) {
  if (table.empty()) return true;
  const auto next = long_tables_.lower_bound(table.end());
  if (next != long_tables_.begin() && std::prev(next)->second > table.offset) return false;
  long_tables_.emplace(table.offset, table.end());
  return true;
}

// Tables begin at clusters, and entries do not cross pages: what is written begins at an entry.
Task<Range> Checker::next_written(Range tables) {
  constexpr std::uint64_t piece_max = 1 * MiB;
  while (!tables.empty() && tables.offset < file_.size()) {
    co_await go_on();
    if (!seen_.range.contains(tables.offset)) {
      const Range rest{tables.offset, file_.size() - tables.offset};
      seen_ = co_await file_.map(rest);
    }
    const bool zero = seen_.mapping == Mapping::zero || seen_.mapping == Mapping::zero_allocated;
    const std::uint64_t alike = std::min(tables.length, seen_.range.end() - tables.offset);
    const std::uint64_t passed = !zero ? 0 : alike == tables.length ? alike : align_down(alike, entry_bytes);
    if (passed == 0) co_return Range{tables.offset, std::min({tables.length, piece_max, align_up(alike, entry_bytes)})};
    tables = {tables.offset + passed, tables.length - passed};
  }
  co_return Range{tables.end(), 0};
}

// False: it is not in the file.
bool Checker::count(std::uint64_t offset, std::uint64_t length, std::uint64_t times) {
  if (length == 0) return true;
  const Geometry& g = geometry();
  std::uint64_t end = 0;
  const bool inside = checked_add(offset, length, end) && end <= align_up(file_size_, g.cluster_size());
  const HostRun run{g.cluster_of({offset}), inside ? g.cluster_of({end - 1}).index - g.cluster_of({offset}).index + 1 : 0};
  if (!inside || run.first.index + run.count > counts_.clusters()) {
    corrupt("ERROR: counting reference for region exceeding the end of the file by one cluster or more: "
            "offset 0x{x} size 0x{x}", offset, length);
    return false;
  }
  counts_.add(run, times);
  highest_ = std::max(highest_, run.first.index + run.count - 1);
  return true;
}

Task<> Checker::run() {
  if (geometry().clusters_for(file_size_) > CheckCounts::clusters_max || !counts_.has_memory())
    co_await Error(Errc::unsupported, "the image file has too many clusters to be checked: " +
                                          std::to_string(geometry().clusters_for(file_size_)));
  report_.total_clusters = geometry().clusters_for(header_.size);
  count(0, geometry().cluster_size());
  co_await load_refcounts();
  co_await count_l1(header_.l1_at, header_.l1_entries, 1, true);
  co_await count_snapshots();
  co_await count_extensions();
  co_await count_tables();
  co_await compare_refcounts();
  if (counts_.too_many()) {
    ++report_.check_errors;
    say("ERROR: more clusters than can be counted have 65535 references or more");
  }
  report_.image_end = (highest_ + 1) << geometry().cluster_bits;
}

}  // namespace tidemark::qcow2
