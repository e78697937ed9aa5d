// WriteOrder: what must be durable before what, declared once and checked for cycles.
//
// An image survives a crash at any write because a table never points at what is not there yet, and
// nothing is freed while a table may still point at it:
//
//   data, refcount blocks, refcount table  before  L2 tables and the L1 table
//   refcount blocks                        before  the refcount table that points at them
//   L2 tables and the L1 table             before  what they no longer use is freed
//   all of these                           before  a header that points at them
//   the mark that refcounts are not kept   before  L2 tables and the L1 table, of an image with lazy refcounts
//
// Committer writes stages in sequence() and syncs the file between two that must_precede() says; HeaderWriter syncs
// before it writes; the mark is the driver's.
#pragma once

#include <array>
#include <cstdint>

#include "base/error.hpp"
#include "block/rules.hpp"

namespace tidemark::qcow2 {

enum class Stage : std::uint8_t {
  data,                // clusters that a table will point at: guest data, copies, new empty tables
  refcount_blocks,     // counts go up here; they go down under `frees`
  refcount_table,
  l2_tables,
  l1_table,
  frees,
  dirty_mark,          // in the header: refcounts are not kept from here on
  header,              // what points at tables and directories
};
inline constexpr std::size_t stage_count = 8;

using StageSet = std::uint8_t;
constexpr StageSet bit(Stage s) noexcept {
  return static_cast<StageSet>(1u << static_cast<unsigned>(s));
}

class WriteOrder {
 public:
  // Nothing ordered.  Tests start here to show that a missing rule is found out.
  WriteOrder() = default;
  // The rules above; all of them, or without what `broken` is about.
  static WriteOrder standard() { return standard_but(Rule::none); }
  static WriteOrder standard_but(Rule broken);

  // An error when `then` must already precede `first`.
  Result<> declare(Stage first, Stage then);
  bool must_precede(Stage first, Stage then) const noexcept {
    return after_[index(first)] >> index(then) & 1;
  }
  // All stages, each behind all that must precede it.
  std::array<Stage, stage_count> sequence() const noexcept;

 private:
  static constexpr std::size_t index(Stage s) noexcept { return static_cast<std::size_t>(s); }
  std::array<StageSet, stage_count> after_{};            // transitively closed
};

}  // namespace tidemark::qcow2
