// TableSource: changed parts of one kind of table, as the Committer writes them back.
#pragma once

#include <vector>

#include "format/qcow2/layout/types.hpp"
#include "io/aligned.hpp"

namespace tidemark::qcow2 {

// A copy of table bytes as they were when taken, and where they go.
struct TableWrite {
  HostOffset at;
  AlignedBuffer bytes;
};

class TableSource {
 public:
  virtual bool dirty() const noexcept = 0;
  // Appends copies of all that is dirty, which counts as clean from then on but is kept in memory
  // until settle().  One take() at a time.
  virtual void take(std::vector<TableWrite>& writes) = 0;
  // What was taken has been written, or else is dirty again.
  virtual void settle(bool written) noexcept = 0;

 protected:
  ~TableSource() = default;
};

}  // namespace tidemark::qcow2
