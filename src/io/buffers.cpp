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

}  // namespace tidemark
