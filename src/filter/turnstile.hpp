// Turnstile: the base of filters that look at each request before they let it pass, and delay it or fail it.
#pragma once

#include "filter/pass_through.hpp"

namespace tidemark {

enum class RequestKind : std::uint8_t { read, write, write_zeroes, discard, flush, map };

// "write zeroes", for messages.
std::string_view to_string(RequestKind kind) noexcept;

class Turnstile : public PassThrough {
 public:
  Task<Extent> map(Range wanted) override;
  Task<> read(std::uint64_t offset, Buffers into) override;
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;
  Task<> discard(Range range) override;
  Task<> flush() override;
  Task<> write_compressed(std::uint64_t offset, Buffers from) override;

 protected:
  using PassThrough::PassThrough;

 private:
  // The request passes when this returns.  A flush has an empty range.
  virtual Task<> pass(RequestKind kind, Range range) = 0;
};

}  // namespace tidemark
