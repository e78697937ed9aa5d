#include "backup/digest.hpp"

#include <xxhash.h>

#include <charconv>

namespace tidemark {

struct DigestStream::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

Digest Digest::of(Bytes bytes) noexcept {
  const XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return {h.high64, h.low64};
}

void Digest::store(std::byte* to) const noexcept {
  store_be(to, high);
  store_be(to + 8, low);
}

Digest Digest::load(const std::byte* from) noexcept {
  return {load_be<std::uint64_t>(from), load_be<std::uint64_t>(from + 8)};
}

std::string Digest::to_hex() const {
  static constexpr char digits[] = "0123456789abcdef";
  std::byte raw[size];
  store(raw);
  std::string hex;
  for (std::byte b : raw) {
    hex += digits[std::to_integer<unsigned>(b) >> 4];
    hex += digits[std::to_integer<unsigned>(b) & 15];
  }
  return hex;
}

bool Digest::from_hex(std::string_view hex, Digest& out) noexcept {
  if (hex.size() != 2 * size) return false;
  auto half = [&](std::size_t at, std::uint64_t& word) {
    const char* end = hex.data() + at + size;
    auto [stop, error] = std::from_chars(hex.data() + at, end, word, 16);
    return error == std::errc{} && stop == end;
  };
  return half(0, out.high) && half(size, out.low);
}

DigestStream::DigestStream() : state_(std::make_unique<State>()) { XXH3_128bits_reset(state_->xxh); }
DigestStream::DigestStream(DigestStream&&) noexcept = default;
DigestStream& DigestStream::operator=(DigestStream&&) noexcept = default;
DigestStream::~DigestStream() = default;
void DigestStream::update(Bytes bytes) noexcept { XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size()); }
Digest DigestStream::digest() const noexcept {
  const XXH128_hash_t h = XXH3_128bits_digest(state_->xxh);
  return {h.high64, h.low64};
}

}  // namespace tidemark
