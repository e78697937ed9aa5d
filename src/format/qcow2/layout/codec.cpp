#include "format/qcow2/layout/codec.hpp"

#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

namespace tidemark::qcow2 {
namespace {

constexpr int window_bits = -12;         // negative: no header
constexpr int memory_level = 9;

Bytef* zlib_bytes(const std::byte* bytes) {
  return const_cast<Bytef*>(reinterpret_cast<const Bytef*>(bytes));
}

// A stream of zlib's that begins anew for each cluster.
class Deflate {
 public:
  Deflate() noexcept
      : good_(deflateInit2(&stream_, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, memory_level, Z_DEFAULT_STRATEGY) == Z_OK) {}
  Deflate(const Deflate&) = delete;
  ~Deflate() {
    if (good_) deflateEnd(&stream_);
  }

  std::size_t compress(Bytes cluster, MutableBytes out) noexcept {
    if (!good_ || deflateReset(&stream_) != Z_OK) return 0;
    stream_.next_in = zlib_bytes(cluster.data());
    stream_.avail_in = static_cast<uInt>(cluster.size());
    stream_.next_out = zlib_bytes(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    return deflate(&stream_, Z_FINISH) == Z_STREAM_END ? out.size() - stream_.avail_out : 0;
  }

 private:
  z_stream stream_{};
  const bool good_;
};

bool inflate_cluster(Bytes data, MutableBytes cluster) noexcept {
  z_stream stream{};
  stream.next_in = zlib_bytes(data.data());
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = zlib_bytes(cluster.data());
  stream.avail_out = static_cast<uInt>(cluster.size());
  if (inflateInit2(&stream, window_bits) != Z_OK) return false;
  const int outcome = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  // Z_BUF_ERROR: the output is full but the end mark has not been looked at.
  return (outcome == Z_STREAM_END || outcome == Z_BUF_ERROR) && stream.avail_out == 0;
}

// A frame may end anywhere in `data`: the streaming interface stops there.
bool zstd_stream(ZSTD_DCtx* context, Bytes data, MutableBytes cluster) noexcept {
  if (ZSTD_isError(ZSTD_DCtx_reset(context, ZSTD_reset_session_only))) return false;
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
  while (out.pos < out.size) {
    const std::size_t in_before = in.pos, out_before = out.pos;
    const std::size_t left = ZSTD_decompressStream(context, &out, &in);
    if (ZSTD_isError(left) || (in.pos == in_before && out.pos == out_before)) return false;
  }
  return true;
}

// A frame that has the cluster and no more needs no buffers in between.
bool zstd_frame(ZSTD_DCtx* context, Bytes data, MutableBytes cluster) noexcept {
  const std::size_t frame = ZSTD_findFrameCompressedSize(data.data(), data.size());
  if (ZSTD_isError(frame)) return false;
  return ZSTD_decompressDCtx(context, cluster.data(), cluster.size(), data.data(), frame) == cluster.size();
}

template <auto destroy>
struct Destroy {
  template <class T>
  void operator()(T* context) const noexcept {
    (void)destroy(context);
  }
};
template <class T, auto destroy>
using Owned = std::unique_ptr<T, Destroy<destroy>>;

}  // namespace

struct Codec::Contexts {
  std::unique_ptr<Deflate> deflate;
  Owned<libdeflate_decompressor, libdeflate_free_decompressor> inflate;
  Owned<ZSTD_CCtx, ZSTD_freeCCtx> zstd_out;
  Owned<ZSTD_DCtx, ZSTD_freeDCtx> zstd_in;
};

Codec::Codec(CompressionType type) : type_(type), contexts_(std::make_unique<Contexts>()) {}

Codec::~Codec() = default;

std::size_t Codec::compress(Bytes cluster, MutableBytes out) {
  if (type_ == CompressionType::zlib) {
    if (!contexts_->deflate) contexts_->deflate = std::make_unique<Deflate>();
    return contexts_->deflate->compress(cluster, out);
  }
  auto& context = contexts_->zstd_out;
  if (!context) context.reset(ZSTD_createCCtx());
  if (!context) return 0;
  const std::size_t used = ZSTD_compressCCtx(context.get(), out.data(), out.size(), cluster.data(), cluster.size(), ZSTD_CLEVEL_DEFAULT);
  return ZSTD_isError(used) ? 0 : used;
}

// libdeflate is twice as fast as zlib, but wants data that ends where the cluster does.
bool Codec::decompress(Bytes data, MutableBytes cluster) {
  if (type_ == CompressionType::zlib) {
    auto& context = contexts_->inflate;
    if (!context) context.reset(libdeflate_alloc_decompressor());
    const bool good = context && libdeflate_deflate_decompress(context.get(), data.data(), data.size(), cluster.data(), cluster.size(),
                                                               nullptr) == LIBDEFLATE_SUCCESS;
    return good || inflate_cluster(data, cluster);
  }
  auto& context = contexts_->zstd_in;
  if (!context) context.reset(ZSTD_createDCtx());
  if (!context) return false;
  return zstd_frame(context.get(), data, cluster) || zstd_stream(context.get(), data, cluster);
}

Task<Codecs::Lease> Codecs::take() {
  co_await free_.acquire();
  if (spare_.empty()) co_return Lease(*this, std::make_unique<Codec>(type_));
  std::unique_ptr<Codec> codec = std::move(spare_.back());
  spare_.pop_back();
  co_return Lease(*this, std::move(codec));
}

void Codecs::put_back(std::unique_ptr<Codec> codec) noexcept {
  spare_.push_back(std::move(codec));
  free_.release();
}

}  // namespace tidemark::qcow2
