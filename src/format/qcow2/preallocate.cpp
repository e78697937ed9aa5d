#include "format/qcow2/preallocate.hpp"

#include <algorithm>

namespace tidemark::qcow2 {

Task<> reserve(Edge& file, Range range, Qcow2Preallocation how, CancelToken interrupted) {
  if (how == Qcow2Preallocation::off || how == Qcow2Preallocation::metadata) co_return;
  if (how == Qcow2Preallocation::falloc) co_return co_await file.write_zeroes(range);
  AlignedBuffer zeroes(std::min<std::uint64_t>(range.length, 1 * MiB));
  Buffers(zeroes.bytes()).fill_zero();
  while (!range.empty()) {
    if (interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
    const std::uint64_t length = std::min<std::uint64_t>(range.length, zeroes.size());
    co_await file.write(range.offset, zeroes.bytes().first(length));
    range = {range.offset + length, range.length - length};
  }
}

}  // namespace tidemark::qcow2
