#include "filter/compress.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "filter/pass_through.hpp"

namespace tidemark {
namespace {

// Requests are of whole clusters, of the image that is below at the time: the node completes what is less.
class Compress final : public PassThrough {
 public:
  Compress(Reactor& reactor, std::unique_ptr<Edge> file) : PassThrough(reactor, std::move(file)) {}

  std::string_view name() const noexcept override { return "compress"; }
  BlockLimits limits() const noexcept override {
    BlockLimits limits = PassThrough::limits();
    const std::uint32_t cluster = skip_filters(file().node()).limits().opt_transfer;
    limits.request_align = std::max(limits.request_align, cluster);
    limits.write_zeroes_align = std::max(limits.write_zeroes_align, cluster);
    return limits;
  }
  bool supports_fua() const noexcept override { return false; }

  // As it is while a job's filter below, or another image there, knows nothing of compression.
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags) override {
    return supports_compression() ? PassThrough::write_compressed(offset, from) : PassThrough::write(offset, from, WriteFlags::none);
  }
};

}  // namespace

Task<std::unique_ptr<BlockDriver>> open_compress(BlockNode& file) {
  const ImageInfo info = co_await file.driver().info();
  if (!file.driver().supports_compression() || !info.cluster_size)
    co_await Error(Errc::unsupported, "Compression is not supported for underlying format: " + std::string(file.driver().name()));
  const Permissions none{Permissions::none, Permissions::all};
  auto edge = co_await unwrap(Edge::attach(file, Role::filtered, none, "compress"));
  co_return std::unique_ptr<BlockDriver>(std::make_unique<Compress>(file.reactor(), std::move(edge)));
}

}  // namespace tidemark
