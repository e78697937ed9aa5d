// What it costs to take layers out of a backing chain, and how it costs least.  Pure: who asks has looked at the layers.
//
// A layer goes when it is pulled into the one above, which takes what shows of it there, or committed to the one below, which
// takes all that it holds.  Several at once move what is hidden among them not at all.
#pragma once

#include <vector>

#include "base/error.hpp"

namespace tidemark {

// What a layer decides of a piece of the disk: nothing, or that there is data, or that it reads as zeroes.
enum class LayerState : std::uint8_t { nothing, data, zeroes };

// How many bytes the layers of a chain have, and how much of that shows.  Layer 0 is the top.
class ChainCosts {
 public:
  explicit ChainCosts(std::size_t layers) : layers_(layers), seen_(layers * (layers + 1)) {}

  std::size_t layers() const noexcept { return layers_; }
  // A piece of the disk, by what each layer decides of it.
  void add(std::uint64_t bytes, const std::vector<LayerState>& states);

  // Bytes of data in layers [first, last] that are seen when one looks from layer `from`, at or above `first`.
  std::uint64_t seen(std::size_t from, std::size_t first, std::size_t last) const noexcept;
  std::uint64_t held(std::size_t layer) const noexcept { return seen(layer, layer, layer); }
  // To take out only this layer.  The top cannot be pulled, nor the last one committed.
  std::uint64_t pull(std::size_t layer) const noexcept { return seen(layer - 1, layer, layer); }
  std::uint64_t commit(std::size_t layer) const noexcept { return held(layer); }

 private:
  // Of data in `layer`, how much has layer above - 1 as the next one above that decides anything; 0: none does.
  std::uint64_t& hidden_by(std::size_t above, std::size_t layer) noexcept { return seen_[layer * (layers_ + 1) + above]; }

  std::size_t layers_;
  std::vector<std::uint64_t> seen_;
};

// Layers [first, last] go, into the one above or the one below.
struct ChainStep {
  bool commit = false;
  std::size_t first = 0, last = 0;
  std::uint64_t bytes = 0;

  std::size_t into() const noexcept { return commit ? last + 1 : first - 1; }
  friend bool operator==(const ChainStep&, const ChainStep&) = default;
};

struct ChainPlan {
  std::vector<ChainStep> steps;          // in this order
  std::uint64_t bytes = 0;
};

// The steps that move least, with as few as possible of those that move the same.  Errc::invalid_argument when no layer would
// be left.
Result<ChainPlan> plan_removal(const ChainCosts& costs, const std::vector<bool>& removed);

}  // namespace tidemark
