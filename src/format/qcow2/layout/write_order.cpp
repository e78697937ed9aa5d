#include "format/qcow2/layout/write_order.hpp"

#include <span>

namespace tidemark::qcow2 {

namespace {

struct Declared {
  Stage first, then;
};
constexpr Declared standard_rules[] = {
    {Stage::data, Stage::l2_tables},           {Stage::data, Stage::l1_table},
    {Stage::refcount_blocks, Stage::refcount_table},
    {Stage::refcount_table, Stage::l2_tables}, {Stage::refcount_table, Stage::l1_table},
    {Stage::l2_tables, Stage::frees},          {Stage::l1_table, Stage::frees},
    {Stage::l2_tables, Stage::header},         {Stage::l1_table, Stage::header},
    {Stage::dirty_mark, Stage::l2_tables},     {Stage::dirty_mark, Stage::l1_table},
};
// The sync after the refcounts would be the data's too, so they are not ordered either.
constexpr Declared tables_before_data[] = {
    {Stage::refcount_blocks, Stage::refcount_table},
    {Stage::l2_tables, Stage::frees},          {Stage::l1_table, Stage::frees},
};
constexpr Declared tables_before_refcounts[] = {
    {Stage::data, Stage::l2_tables},            {Stage::data, Stage::l1_table},
    {Stage::l2_tables, Stage::refcount_blocks}, {Stage::l1_table, Stage::refcount_blocks},
    {Stage::refcount_blocks, Stage::refcount_table},
    {Stage::refcount_blocks, Stage::frees},
};

}  // namespace

WriteOrder WriteOrder::standard_but(Rule broken) {
  std::span<const Declared> rules = standard_rules;
  if (broken == Rule::data_before_tables) rules = tables_before_data;
  if (broken == Rule::refcounts_before_tables) rules = tables_before_refcounts;
  WriteOrder order;
  for (const Declared& rule : rules) {
    if (broken == Rule::tables_before_header && rule.then == Stage::header) continue;
    if (broken == Rule::mark_before_tables && rule.first == Stage::dirty_mark) continue;
    const bool acyclic = order.declare(rule.first, rule.then).ok();
    TM_ASSERT(acyclic);
  }
  return order;
}

Result<> WriteOrder::declare(Stage first, Stage then) {
  if (first == then || must_precede(then, first))
    return Error(Errc::invalid_argument, "write order: stages " + std::to_string(index(first)) + " and " +
                                             std::to_string(index(then)) + " would precede each other");
  const auto behind = static_cast<std::uint8_t>(1u << index(then) | after_[index(then)]);
  for (std::size_t s = 0; s < stage_count; ++s)
    if (s == index(first) || (after_[s] >> index(first) & 1)) after_[s] |= behind;
  return {};
}

std::array<Stage, stage_count> WriteOrder::sequence() const noexcept {
  std::array<Stage, stage_count> sequence{};
  std::uint8_t placed = 0;
  for (std::size_t n = 0; n < stage_count; ++n) {
    for (std::size_t s = 0; s < stage_count; ++s) {
      if (placed >> s & 1) continue;
      bool free = true;
      for (std::size_t before = 0; before < stage_count; ++before)
        free = free && ((placed >> before & 1) || !(after_[before] >> s & 1));
      if (!free) continue;
      sequence[n] = static_cast<Stage>(s);
      placed = static_cast<std::uint8_t>(placed | 1u << s);
      break;
    }
  }
  return sequence;
}

}  // namespace tidemark::qcow2
