#include "format/qcow2/codec.hpp"

#include <zlib.h>
#include <zstd.h>

namespace tidemark::qcow2 {
namespace {

constexpr int window_bits = -12;         // negative: no header
constexpr int memory_level = 9;

Bytef* zlib_bytes(const std::byte* bytes) {
  return const_cast<Bytef*>(reinterpret_cast<const Bytef*>(bytes));
}

std::size_t deflate_cluster(Bytes cluster, MutableBytes out) noexcept {
  z_stream stream{};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, window_bits, memory_level,
                   Z_DEFAULT_STRATEGY) != Z_OK)
    return 0;
  stream.next_in = zlib_bytes(cluster.data());
  stream.avail_in = static_cast<uInt>(cluster.size());
  stream.next_out = zlib_bytes(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const bool complete = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  deflateEnd(&stream);
  return complete ? out.size() - stream.avail_out : 0;
}

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

std::size_t zstd_compress(Bytes cluster, MutableBytes out) noexcept {
  const std::size_t used = ZSTD_compress(out.data(), out.size(), cluster.data(), cluster.size(), ZSTD_CLEVEL_DEFAULT);
  return ZSTD_isError(used) ? 0 : used;
}

// A frame may end anywhere in `data`: the streaming interface stops there.
bool zstd_decompress(Bytes data, MutableBytes cluster) noexcept {
  ZSTD_DCtx* const context = ZSTD_createDCtx();
  if (!context) return false;
  ZSTD_inBuffer in{data.data(), data.size(), 0};
  ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
  bool good = true;
  while (good && out.pos < out.size) {
    const std::size_t in_before = in.pos, out_before = out.pos;
    const std::size_t left = ZSTD_decompressStream(context, &out, &in);
    const bool moved = in.pos != in_before || out.pos != out_before;
    good = !ZSTD_isError(left) && moved;
  }
  ZSTD_freeDCtx(context);
  return good;
}

}  // namespace

std::size_t compress(CompressionType type, Bytes cluster, MutableBytes out) noexcept {
  return type == CompressionType::zlib ? deflate_cluster(cluster, out) : zstd_compress(cluster, out);
}

bool decompress(CompressionType type, Bytes data, MutableBytes cluster) noexcept {
  return type == CompressionType::zlib ? inflate_cluster(data, cluster) : zstd_decompress(data, cluster);
}

}  // namespace tidemark::qcow2
