#include "format/qcow2/preallocate.hpp"

#include <algorithm>

namespace tidemark::qcow2 {

// In pieces: where storage cannot reserve, each is written.
Task<> reserve(Edge& file, Range range, Qcow2Preallocation how, CancelToken interrupted) {
  if (how == Qcow2Preallocation::off || how == Qcow2Preallocation::metadata) co_return;
  const bool written = how == Qcow2Preallocation::full;
  const std::uint64_t piece_max = written ? 1 * MiB : 16 * MiB;
  AlignedBuffer zeroes(written ? std::min(range.length, piece_max) : 0);
  Buffers(zeroes.bytes()).fill_zero();
  while (!range.empty()) {
    if (interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
    const Range piece{range.offset, std::min(range.length, piece_max)};
    if (written) co_await file.write(piece.offset, zeroes.bytes().first(piece.length));
    else co_await file.write_zeroes(piece);
    range = {piece.end(), range.length - piece.length};
  }
}

}  // namespace tidemark::qcow2
