// SparseContent: the bytes of a simulated file, as pages in a map, so that a file of 16 TiB that
// holds a few bytes costs a few pages.  A value: copies share all that they hold until one of them changes, so a
// copy costs next to nothing.
//
// Invariants: what is not stored reads as zeroes; every stored page is allocated; after trim() and
// every other change but copy(), nothing is stored beyond size().
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/units.hpp"
#include "io/op.hpp"

namespace tidemark {

// A set of whole numbers (here: pages) as disjoint intervals.
class IntervalSet {
 public:
  void add(std::uint64_t first, std::uint64_t end);
  void remove(std::uint64_t first, std::uint64_t end);
  std::uint64_t count() const noexcept { return count_; }
  std::uint64_t count_in(std::uint64_t first, std::uint64_t end) const;
  // Makes [first, end) as it is in `from`.
  void copy(const IntervalSet& from, std::uint64_t first, std::uint64_t end);

 private:
  std::map<std::uint64_t, std::uint64_t> intervals_;      // first -> end
  std::uint64_t count_ = 0;
};

class SparseContent {
 public:
  static constexpr std::uint64_t page_size = 4096;

  std::uint64_t size() const noexcept { return size_; }
  std::uint64_t allocated() const noexcept { return allocated_.count() * page_size; }
  // Bytes that writing to `range` would allocate.
  std::uint64_t missing(Range range) const;
  FileExtent extent(std::uint64_t offset) const;
  void read(std::uint64_t offset, MutableBytes into) const;
  // The numbers of the pages stored that overlap `range`, ascending.
  std::vector<std::uint64_t> pages_in(Range range) const;

  void write(std::uint64_t offset, Bytes from);           // grows
  void zero(Range range);                                 // stays allocated
  void punch(Range range);                                // whole pages are deallocated
  void reserve(Range range);                              // allocates; grows
  void resize(std::uint64_t size);

  // For a crash: makes `range` as it is in `from`, even beyond size(); sets the size and nothing
  // else; drops what is beyond the size.
  void copy(const SparseContent& from, Range range);
  void set_size(std::uint64_t size) noexcept { size_ = size; }
  void trim();

 private:
  using Page = std::array<std::byte, page_size>;
  using Pages = std::map<std::uint64_t, std::shared_ptr<Page>>;
  const Pages& pages() const noexcept { return *pages_; }
  Pages& own_pages();
  Page& writable(std::uint64_t number);

  std::shared_ptr<Pages> pages_ = std::make_shared<Pages>();
  IntervalSet allocated_;                                 // pages
  std::uint64_t size_ = 0;
};

}  // namespace tidemark
