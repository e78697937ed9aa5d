// PendingClusters: a piece of a write to clusters that have no place of their own yet: unallocated,
// zero, compressed, or shared with a snapshot.
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

  void commit() noexcept override {
    const qcow2::Geometry& g = driver_.header_.geometry;
    for (std::uint64_t i = 0; i < run_.count; ++i) {
      const qcow2::L2Entry old = entries_[i];
      driver_.map_.set(entries_, i, qcow2::L2Entry::of_data(g.offset_of({run_.first.index + i})));
      if (!reused_) driver_.map_.release(old);
    }
    driver_.image_.wrote(qcow2::Stage::data);
  }
  void abort() noexcept override {
    if (!reused_ && run_.count != 0) driver_.refcounts_.free_later(run_);
  }

 private:
  friend class Qcow2Driver;
  Qcow2Driver& driver_;
  RangeLock::Guard changing_;
  qcow2::ClusterMap::Entries entries_;
  qcow2::HostRun run_;                  // where they go
  bool reused_ = false;                 // the clusters' own, which read as zeroes so far
};

}  // namespace tidemark
