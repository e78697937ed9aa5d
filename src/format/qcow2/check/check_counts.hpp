// CheckCounts: how often each cluster of an image file is referenced, and a bit for each whose refcount is one.
//
// Two bytes a cluster, of memory that is not touched where nothing is referenced; what does not fit into them is kept
// aside, within limits: too_many() says when that was not enough.
#pragma once

#include <cstdlib>
#include <memory>
#include <unordered_map>

#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

class CheckCounts {
 public:
  static constexpr std::uint64_t clusters_max = std::uint64_t{1} << 31;

  explicit CheckCounts(std::uint64_t clusters)
      : clusters_(clusters), counts_(zeroed<std::uint16_t>(clusters)), ones_(zeroed<std::uint64_t>(div_up(clusters, 64))) {}

  bool has_memory() const noexcept { return counts_ && ones_; }
  std::uint64_t clusters() const noexcept { return clusters_; }
  bool too_many() const noexcept { return too_many_; }

  std::uint64_t operator[](std::uint64_t cluster) const {
    const std::uint16_t count = counts_.get()[cluster];
    return count == aside ? aside_.at(cluster) : count;
  }
  // All of a run lies in the file.
  void add(HostRun run, std::uint64_t times) {
    for (std::uint64_t i = 0; i < run.count; ++i) add_one(run.first.index + i, times);
  }

  void clear(std::uint64_t cluster) { aside_.erase(cluster), counts_.get()[cluster] = 0; }

  // What the refcounts on disk say.
  bool is_one(std::uint64_t cluster) const noexcept {
    return cluster < clusters_ && (ones_.get()[cluster / 64] >> cluster % 64 & 1) != 0;
  }
  void set_one(std::uint64_t cluster) noexcept { ones_.get()[cluster / 64] |= std::uint64_t{1} << cluster % 64; }

 private:
  static constexpr std::uint16_t aside = 0xffff;
  static constexpr std::size_t aside_max = 1 << 20;

  struct Free {
    void operator()(void* memory) const noexcept { std::free(memory); }
  };
  template <class T>
  static std::unique_ptr<T, Free> zeroed(std::uint64_t n) {
    return std::unique_ptr<T, Free>(static_cast<T*>(std::calloc(n + 1, sizeof(T))));
  }

  void add_one(std::uint64_t cluster, std::uint64_t times) {
    std::uint16_t& count = counts_.get()[cluster];
    if (count != aside && count + times < aside) {
      count = static_cast<std::uint16_t>(count + times);
      return;
    }
    if (count != aside && aside_.size() >= aside_max) {
      too_many_ = true;
      return;
    }
    const std::uint64_t before = count == aside ? aside_[cluster] : count;
    aside_[cluster] = before + times;
    count = aside;
  }

  const std::uint64_t clusters_;
  std::unique_ptr<std::uint16_t, Free> counts_;
  std::unique_ptr<std::uint64_t, Free> ones_;
  std::unordered_map<std::uint64_t, std::uint64_t> aside_;
  bool too_many_ = false;
};

}  // namespace tidemark::qcow2
