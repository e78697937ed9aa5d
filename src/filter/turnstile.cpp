#include "filter/turnstile.hpp"

namespace tidemark {

std::string_view to_string(RequestKind kind) noexcept {
  constexpr std::string_view names[] = {"read", "write", "write zeroes", "discard", "flush", "map"};
  return names[static_cast<std::size_t>(kind)];
}

Task<Extent> Turnstile::map(Range wanted) {
  co_await pass(RequestKind::map, wanted);
  co_return co_await file().map(wanted);
}

Task<> Turnstile::read(std::uint64_t offset, Buffers into) {
  const Range range{offset, in_disk(offset, into.size())};
  co_await pass(RequestKind::read, range);
  co_await PassThrough::read(offset, into);
}

Task<> Turnstile::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Range range{offset, in_disk(offset, from.size())};
  co_await pass(RequestKind::write, range);
  co_await PassThrough::write(offset, from, flags);
}

Task<> Turnstile::write_compressed(std::uint64_t offset, Buffers from) {
  const Range range{offset, in_disk(offset, from.size())};
  co_await pass(RequestKind::write, range);
  co_await PassThrough::write_compressed(offset, from);
}

Task<> Turnstile::write_zeroes(Range range, WriteFlags flags) {
  co_await pass(RequestKind::write_zeroes, in_disk(range));
  co_await PassThrough::write_zeroes(range, flags);
}

Task<> Turnstile::discard(Range range) {
  co_await pass(RequestKind::discard, in_disk(range));
  co_await PassThrough::discard(range);
}

Task<> Turnstile::flush() {
  constexpr Range nothing;
  co_await pass(RequestKind::flush, nothing);
  co_await PassThrough::flush();
}

}  // namespace tidemark
