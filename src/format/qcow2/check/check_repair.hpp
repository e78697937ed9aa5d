// What makes right what a Checker has found; check.hpp has the rules.
#pragma once

#include "format/qcow2/check/checker.hpp"

namespace tidemark::qcow2 {

class CheckRepair {
 public:
  // `leaks_only`: nothing else is wrong.
  CheckRepair(Checker& checker, bool leaks_only)
      : checker_(checker), file_(checker.file()), geometry_(checker.geometry()), leaks_only_(leaks_only) {}

  // Refcounts, and with Repair::all the flags in the tables; with Repair::leaks where they were right, and would not be any more.
  Task<> run();

 private:
  // check_repair.cpp
  Task<> fix_counts();
  Task<bool> fix_block(MutableBytes block, std::uint64_t first);
  Task<> fix_flags();
  bool fix_l1(std::vector<std::uint64_t>& l1) const;
  bool fix_entries(MutableBytes table);
  CheckEntry fixed(CheckEntry entry);
  bool is_only_user(std::uint64_t at) const;
  bool l1_is_alone() const;

  // check_rebuild.cpp
  struct Structure {
    std::uint64_t first = 0;               // cluster; table, then blocks
    std::uint64_t table_clusters = 1;
    std::vector<std::uint64_t> blocks;     // indexes of those that count something
    std::uint64_t end() const noexcept { return first + table_clusters + blocks.size(); }
  };
  Task<> rebuild();
  void forget_old_structure();
  Structure lay_out();
  Task<> write_blocks(const Structure& structure);
  Task<> write_table(const Structure& structure);
  std::uint64_t count_in(const Structure& structure, std::uint64_t cluster) const;

  Checker& checker_;
  Edge& file_;
  const Geometry geometry_;
  const bool leaks_only_;
};

// The incompatible features that the header says from now on.
Task<> write_incompatible(Edge& file, std::uint64_t features);

}  // namespace tidemark::qcow2
