#include "base/bytes.hpp"

namespace tidemark {

bool is_zero(Bytes bytes) noexcept {
  // Compare the buffer with itself shifted by one word: memcmp is the widest loop there is.
  constexpr std::size_t head = 16;
  const std::size_t first = bytes.size() < head ? bytes.size() : head;
  for (std::size_t i = 0; i < first; ++i)
    if (bytes[i] != std::byte{0}) return false;
  if (bytes.size() <= head) return true;
  return std::memcmp(bytes.data(), bytes.data() + head, bytes.size() - head) == 0;
}

}  // namespace tidemark
