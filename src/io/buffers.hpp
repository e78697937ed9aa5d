// Buffers: a view of memory scattered over iovecs, and what a request needs of it: slices, copies,
// fills.  Does not own.  A view of one contiguous piece costs no indirection.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "base/assert.hpp"
#include "base/bytes.hpp"

namespace tidemark {

class Buffers {
 public:
  Buffers() = default;
  Buffers(MutableBytes one) : one_{one.data(), one.size()}, length_(one.size()) {}
  // The data of a write: never written through.
  static Buffers of_const(Bytes one) {
    return Buffers(MutableBytes(const_cast<std::byte*>(one.data()), one.size()));
  }
  // The iovecs outlive the view.
  explicit Buffers(std::span<const iovec> many) {
    std::size_t total = 0;
    for (const iovec& v : many) total += v.iov_len;
    if (many.size() == 1) one_ = many[0];
    else many_ = many.data();
    length_ = total;
  }

  std::size_t size() const noexcept { return length_; }
  bool empty() const noexcept { return length_ == 0; }

  Buffers slice(std::size_t from, std::size_t length) const {
    TM_ASSERT(from <= length_ && length <= length_ - from);
    Buffers r = *this;
    r.length_ = length;
    if (many_) {
      r.skip_ += from;
      while (length != 0 && r.skip_ >= r.many_->iov_len) r.skip_ -= (r.many_++)->iov_len;
    } else {
      r.one_ = {static_cast<std::byte*>(one_.iov_base) + from, length};
    }
    return r;
  }
  Buffers from(std::size_t at) const { return slice(at, length_ - at); }
  Buffers first(std::size_t n) const { return slice(0, n); }

  // Calls f(MutableBytes) for each contiguous piece in order.
  template <class F>
  void for_each(F&& f) const {
    if (!many_) {
      if (length_) f(MutableBytes(static_cast<std::byte*>(one_.iov_base), length_));
      return;
    }
    std::size_t left = length_, skip = skip_;
    for (const iovec* v = many_; left; ++v, skip = 0) {
      const std::size_t n = v->iov_len - skip < left ? v->iov_len - skip : left;
      if (n) f(MutableBytes(static_cast<std::byte*>(v->iov_base) + skip, n));
      left -= n;
    }
  }

  // The one piece, if it is one.
  bool contiguous() const noexcept { return !many_ || length_ <= many_->iov_len - skip_; }
  MutableBytes as_contiguous() const {
    TM_ASSERT(contiguous());
    if (many_) return {static_cast<std::byte*>(many_->iov_base) + skip_, length_};
    return {static_cast<std::byte*>(one_.iov_base), length_};
  }

  void copy_to(MutableBytes to) const {
    TM_ASSERT(to.size() == length_);
    std::byte* at = to.data();
    for_each([&](MutableBytes piece) { std::memcpy(at, piece.data(), piece.size()); at += piece.size(); });
  }
  void copy_from(Bytes data) const {
    TM_ASSERT(data.size() == length_);
    const std::byte* at = data.data();
    for_each([&](MutableBytes piece) { std::memcpy(piece.data(), at, piece.size()); at += piece.size(); });
  }
  void fill_zero() const {
    for_each([](MutableBytes piece) { std::memset(piece.data(), 0, piece.size()); });
  }
  bool all_zero() const {
    bool zero = true;
    for_each([&](MutableBytes piece) { zero = zero && is_zero(piece); });
    return zero;
  }
  // True when every piece's address and length are multiples of `power`.
  bool aligned(std::size_t power) const {
    bool aligned = true;
    for_each([&](MutableBytes piece) {
      aligned = aligned && ((reinterpret_cast<std::uintptr_t>(piece.data()) | piece.size()) & (power - 1)) == 0;
    });
    return aligned;
  }

  // The pieces as iovecs, at most `max` of them, into `out` (cleared); returns the bytes they cover.
  std::size_t gather(std::vector<iovec>& out, std::size_t max = 1024) const;
  // The first pieces that fit into `out`; returns how many there are.
  std::size_t gather(std::span<iovec> out) const;

 private:
  iovec one_{nullptr, 0};             // when many_ is null
  const iovec* many_ = nullptr;
  std::size_t skip_ = 0;              // into *many_
  std::size_t length_ = 0;
};

}  // namespace tidemark
