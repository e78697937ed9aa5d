// PendingClusters: a piece of a write to clusters that have no place of their own yet: unallocated,
// zero, compressed, or shared with a snapshot; or that have one which they only use in part.
//
// Holds the clusters' mapping exclusively from before it is looked at until the write has been
// committed or aborted.
#pragma once

#include "format/qcow2/driver.hpp"

namespace tidemark {

class Qcow2Driver::PendingClusters final : public PendingWrite {
 public:
  PendingClusters(Qcow2Driver& driver, Range clusters)
      : driver_(driver), changing_(driver.changing_.hold(clusters, RangeLock::Mode::exclusive)) {}
  RangeLock::Guard& changing() noexcept { return changing_; }

  // run_ is chosen: what of `wanted` goes there, and what must be copied beside it, on a disk of `size`.
  void settle(Range wanted, std::uint64_t size) noexcept;

  Result<> commit() noexcept override;
  void abort() noexcept override {
    if (!reused_ && run_.count != 0) driver_.refcounts_.free_later(run_);
  }

 private:
  friend class Qcow2Driver;
  std::uint64_t start() const noexcept { return align_down(range.offset, driver_.header_.geometry.cluster_size()); }

  Qcow2Driver& driver_;
  RangeLock::Guard changing_;
  qcow2::ClusterMap::Entries entries_;
  qcow2::HostRun run_;                  // where they go
  bool reused_ = false;                 // the clusters' own, which hold some of them already
};

}  // namespace tidemark
