// An input's bytes, taken as numbers from its front; zeroes once it is used up.
#pragma once

#include "base/bytes.hpp"

namespace tidemark {

class FuzzInput {
 public:
  explicit FuzzInput(Bytes bytes) : bytes_(bytes) {}
  bool empty() const noexcept { return bytes_.empty(); }
  std::uint64_t number(std::size_t length) {
    std::uint64_t n = 0;
    for (; length != 0 && !bytes_.empty(); --length) {
      n = n << 8 | static_cast<std::uint64_t>(bytes_.front());
      bytes_ = bytes_.subspan(1);
    }
    return n;
  }
  Bytes rest() const noexcept { return bytes_; }

 private:
  Bytes bytes_;
};

}  // namespace tidemark
