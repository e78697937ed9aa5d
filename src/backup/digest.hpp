// Digest: XXH3-128 of bytes, the checksum that manifests and sums files hold.  It finds rot, torn
// writes and mix-ups; it is no defence against someone who forges a backup.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.hpp"

namespace tidemark {

struct Digest {
  static constexpr std::size_t size = 16;
  std::uint64_t high = 0, low = 0;

  static Digest of(Bytes bytes) noexcept;
  void store(std::byte* to) const noexcept;                  // 16 bytes, canonical (big-endian)
  static Digest load(const std::byte* from) noexcept;
  std::string to_hex() const;                                // 32 digits
  static bool from_hex(std::string_view hex, Digest& out) noexcept;
  friend bool operator==(const Digest&, const Digest&) = default;
};

// The digest of bytes that come in pieces.
class DigestStream {
 public:
  DigestStream();
  DigestStream(DigestStream&&) noexcept;
  DigestStream& operator=(DigestStream&&) noexcept;
  ~DigestStream();
  void update(Bytes bytes) noexcept;
  Digest digest() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace tidemark
