// Committer: writes changed tables back, in rounds, in the order that WriteOrder declares.
//
// A round writes a snapshot: copies of all that is dirty at its start, so that requests go on
// changing tables meanwhile.  What an L2 entry in the snapshot points at had been written before the
// entry was made, hence before the round, and is made durable by the sync that precedes the L2
// tables.  Rounds do not overlap; flushes that wait for a round share the next one.
//
// A round that fails leaves everything it took dirty again, for the next.  There is none after a flush by which the storage has
// lost what the tables point at (ImageFile::loss()).
#pragma once

#include "format/qcow2/layout/free_list.hpp"
#include "format/qcow2/layout/write_order.hpp"
#include "format/qcow2/tables/image_file.hpp"
#include "format/qcow2/tables/table_source.hpp"
#include "task/sync.hpp"

namespace tidemark::qcow2 {

class Committer {
 public:
  struct Sources {
    TableSource& refcount_blocks;
    TableSource& refcount_table;
    TableSource& l2_tables;
    TableSource& l1_table;
    FreeList& frees;
  };
  Committer(Executor& executor, ImageFile& file, Sources sources, WriteOrder order)
      : executor_(executor), file_(file), sources_(sources), order_(order), ended_(executor) {}
  Committer(const Committer&) = delete;

  // Everything written and committed before the call is durable when it returns.
  Task<> flush();
  // No round is under way any more.
  Task<> rest();
  // Writes what is dirty without making all of it durable; for when too much is.
  Task<> write_back();
  // Rounds leave these stages alone from now on, until write_back(): what they hold need not outlive a crash.
  void postpone(StageSet stages) noexcept { postponed_ = stages; }

 private:
  TableSource* source(Stage stage) noexcept;
  bool idle() noexcept;
  Task<> run(bool durable);
  Task<> round(bool durable, StageSet& unsynced);
  bool must_sync(StageSet unsynced, Stage next) const noexcept;
  Task<> sync(StageSet& unsynced);
  Task<> write_all(std::vector<TableWrite>& writes);

  Executor& executor_;
  ImageFile& file_;
  Sources sources_;
  const WriteOrder order_;
  std::uint64_t started_ = 0, durable_ = 0;      // numbers of rounds: the last begun, the last durable
  StageSet postponed_ = 0;
  bool running_ = false;
  Event ended_;
};

}  // namespace tidemark::qcow2
