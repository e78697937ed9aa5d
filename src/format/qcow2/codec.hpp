// Compression of single clusters: deflate without a zlib header (window 2^12, as QEMU writes it) and
// zstd.  Pure; called on worker threads.
#pragma once

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "format/qcow2/header.hpp"

namespace tidemark::qcow2 {

// Compresses into `out`; the length used, or 0 when it does not fit.
std::size_t compress(CompressionType type, Bytes cluster, MutableBytes out) noexcept;

// Fills `cluster` from the start of `data`, which may be followed by anything.  False when it is not
// the compressed form of that many bytes.
bool decompress(CompressionType type, Bytes data, MutableBytes cluster) noexcept;

}  // namespace tidemark::qcow2
