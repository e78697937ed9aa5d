// Integers and text in the store's little-endian structures.  A Decoder that has run past its bytes
// answers zeroes and says so in ok(): look once at the end.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.hpp"

namespace tidemark::tracking {

class Encoder {
 public:
  template <std::unsigned_integral T>
  Encoder& put(T value) {
    bytes_.resize(bytes_.size() + sizeof value);
    store_le(bytes_.data() + bytes_.size() - sizeof value, value);
    return *this;
  }
  Encoder& put(Bytes bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Encoder& text(std::string_view text) {
    put(static_cast<std::uint16_t>(text.size()));
    return put(as_bytes(text));
  }
  const std::vector<std::byte>& bytes() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

class Decoder {
 public:
  explicit Decoder(Bytes bytes) : rest_(bytes) {}

  template <std::unsigned_integral T>
  T get() {
    const Bytes bytes = take(sizeof(T));
    return bytes.empty() ? T{0} : load_le<T>(bytes.data());
  }
  std::string text() {
    const auto length = get<std::uint16_t>();
    return std::string(as_text(take(length)));
  }
  bool ok() const noexcept { return ok_; }
  std::size_t left() const noexcept { return rest_.size(); }

 private:
  Bytes take(std::size_t n) {
    ok_ = ok_ && n <= rest_.size();
    if (!ok_) return {};
    const Bytes bytes = rest_.first(n);
    rest_ = rest_.subspan(n);
    return bytes;
  }
  Bytes rest_;
  bool ok_ = true;
};

}  // namespace tidemark::tracking
