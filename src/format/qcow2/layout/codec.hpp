// Compression of single clusters: deflate without a zlib header (window 2^12, as QEMU writes it) and zstd.  Pure.
//
// A Codec works on one cluster at a time, on any thread.  To make one costs as much as a small cluster does, so Codecs,
// which is its owner's thread's, keeps those that are done with.
#pragma once

#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "format/qcow2/layout/header.hpp"
#include "task/sync.hpp"

namespace tidemark::qcow2 {

class Codec {
 public:
  explicit Codec(CompressionType type);
  ~Codec();
  Codec(const Codec&) = delete;

  // Compresses into `out`; the length used, or 0 when it does not fit.
  std::size_t compress(Bytes cluster, MutableBytes out);
  // Fills `cluster` from the start of `data`, which may be followed by anything.  False when it is not
  // the compressed form of that many bytes.
  bool decompress(Bytes data, MutableBytes cluster);

 private:
  struct Contexts;                       // of the libraries, made when they are needed
  const CompressionType type_;
  const std::unique_ptr<Contexts> contexts_;
};

// At most `at_once` are in use, and as many are kept; who comes then waits.
class Codecs {
 public:
  Codecs(Executor& executor, CompressionType type) : type_(type), free_(executor, at_once) {}

  class [[nodiscard]] Lease {
   public:
    Lease(Codecs& owner, std::unique_ptr<Codec> codec) noexcept : owner_(owner), codec_(std::move(codec)) {}
    Lease(Lease&&) = default;
    ~Lease() {
      if (codec_) owner_.put_back(std::move(codec_));
    }
    Codec* operator->() const noexcept { return codec_.get(); }

   private:
    Codecs& owner_;
    std::unique_ptr<Codec> codec_;
  };
  Task<Lease> take();

 private:
  static constexpr std::uint64_t at_once = 16;
  void put_back(std::unique_ptr<Codec> codec) noexcept;

  const CompressionType type_;
  Semaphore free_;
  std::vector<std::unique_ptr<Codec>> spare_;
};

}  // namespace tidemark::qcow2
