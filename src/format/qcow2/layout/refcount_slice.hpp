// The entries of refcount blocks, in every width: 1, 2, 4 bits (the least significant first within a
// byte), 8, 16, 32, 64 bits big-endian.
#pragma once

#include "base/bytes.hpp"

namespace tidemark::qcow2 {

inline std::uint64_t refcount_entry(const std::byte* block, std::uint64_t i, std::uint32_t order) noexcept {
  switch (order) {
    case 3: return static_cast<std::uint8_t>(block[i]);
    case 4: return load_be<std::uint16_t>(block + i * 2);
    case 5: return load_be<std::uint32_t>(block + i * 4);
    case 6: return load_be<std::uint64_t>(block + i * 8);
    default: break;
  }
  const unsigned per_byte = 8u >> order, width = 1u << order;
  const auto byte = static_cast<unsigned>(block[i / per_byte]);
  return byte >> (i % per_byte * width) & ((1u << width) - 1);
}

inline void set_refcount_entry(std::byte* block, std::uint64_t i, std::uint32_t order,
                               std::uint64_t value) noexcept {
  switch (order) {
    case 3: block[i] = static_cast<std::byte>(value); return;
    case 4: store_be(block + i * 2, static_cast<std::uint16_t>(value)); return;
    case 5: store_be(block + i * 4, static_cast<std::uint32_t>(value)); return;
    case 6: store_be(block + i * 8, value); return;
    default: break;
  }
  const unsigned per_byte = 8u >> order, width = 1u << order;
  const unsigned shift = static_cast<unsigned>(i % per_byte) * width;
  const unsigned mask = ((1u << width) - 1) << shift;
  auto& byte = block[i / per_byte];
  byte = static_cast<std::byte>((static_cast<unsigned>(byte) & ~mask) |
                                (static_cast<unsigned>(value) << shift & mask));
}

}  // namespace tidemark::qcow2
