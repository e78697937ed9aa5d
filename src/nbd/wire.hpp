// WireReader and WireWriter: big-endian fields of one message, front to back.
//
// A reader never leaves its message: a field that is not there reads as zero and makes ok() false
// for good, so that a decoder checks once, at its end.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.hpp"

namespace tidemark::nbd {

class WireReader {
 public:
  explicit WireReader(Bytes message) : left_(message) {}

  std::uint16_t u16() noexcept { return number<std::uint16_t>(); }
  std::uint32_t u32() noexcept { return number<std::uint32_t>(); }
  std::uint64_t u64() noexcept { return number<std::uint64_t>(); }
  Bytes bytes(std::size_t size) noexcept {
    if (size > left_.size()) {
      fail();
      return {};
    }
    const Bytes taken = left_.first(size);
    left_ = left_.subspan(size);
    return taken;
  }
  std::string_view text(std::size_t size) noexcept { return as_text(bytes(size)); }
  std::string_view rest() noexcept { return text(left_.size()); }

  std::size_t left() const noexcept { return left_.size(); }
  bool ok() const noexcept { return ok_; }
  bool done() const noexcept { return ok_ && left_.empty(); }   // all there, and nothing more

 private:
  template <class T>
  T number() noexcept {
    const Bytes field = bytes(sizeof(T));
    return field.empty() ? T{0} : load_be<T>(field.data());
  }
  void fail() noexcept {
    ok_ = false;
    left_ = {};
  }
  Bytes left_;
  bool ok_ = true;
};

// Appends to a message that its owner keeps.
class WireWriter {
 public:
  explicit WireWriter(std::vector<std::byte>& message) : message_(message) {}

  void u16(std::uint16_t value) { number(value); }
  void u32(std::uint32_t value) { number(value); }
  void u64(std::uint64_t value) { number(value); }
  void bytes(Bytes data) { message_.insert(message_.end(), data.begin(), data.end()); }
  void text(std::string_view data) { bytes(as_bytes(data)); }
  void zeroes(std::size_t size) { message_.resize(message_.size() + size); }

 private:
  template <class T>
  void number(T value) {
    std::byte field[sizeof(T)];
    store_be(field, value);
    bytes(field);
  }
  std::vector<std::byte>& message_;
};

}  // namespace tidemark::nbd
