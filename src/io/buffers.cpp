#include "io/buffers.hpp"

namespace tidemark {

std::size_t Buffers::gather(std::vector<iovec>& out, std::size_t max) const {
  out.clear();
  std::size_t covered = 0;
  for_each([&](MutableBytes piece) {
    if (out.size() == max) return;
    out.push_back({piece.data(), piece.size()});
    covered += piece.size();
  });
  return covered;
}

std::size_t Buffers::gather(std::span<iovec> out) const {
  std::size_t count = 0;
  for_each([&](MutableBytes piece) {
    if (count < out.size()) out[count++] = {piece.data(), piece.size()};
  });
  return count;
}

}  // namespace tidemark
