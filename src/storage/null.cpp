#include "storage/null.hpp"

namespace tidemark {
namespace {

class NullDriver final : public BlockDriver {
 public:
  NullDriver(Reactor& reactor, NullOptions options) : BlockDriver(reactor), options_(options) {}

  std::string_view name() const noexcept override { return options_.aio ? "null-aio" : "null-co"; }
  std::uint64_t size() const noexcept override { return options_.size; }
  bool supports_fua() const noexcept override { return true; }

  Task<Extent> map(Range wanted) override {
    co_return Extent{wanted, options_.read_zeroes ? Mapping::zero : Mapping::data, wanted.offset};
  }
  Task<> read(std::uint64_t, Buffers into) override {
    if (options_.read_zeroes) into.fill_zero();
    return delay();
  }
  Task<> write(std::uint64_t, Buffers, WriteFlags) override { return delay(); }
  Task<> write_zeroes(Range, WriteFlags) override { return delay(); }
  Task<> discard(Range) override { return delay(); }
  Task<> flush() override { return delay(); }
  Task<ImageInfo> info() override {
    ImageInfo info;
    info.filename = std::string(name()) + "://";
    info.dirty.reset();
    info.format = name();
    info.virtual_size = align_up(options_.size, sector_size);
    info.actual_size = 0;
    co_return info;
  }
  Task<> close() override { co_return; }

 private:
  Task<> delay() {
    if (options_.latency_ns == 0) co_return;
    co_await home().reactor().sleep(Duration(options_.latency_ns));
  }

  NullOptions options_;
};

}  // namespace

Result<std::unique_ptr<BlockDriver>> open_null(Reactor& reactor, NullOptions options) {
  constexpr std::uint64_t latency_max = 1'000'000'000ull * 86'400;  // a day
  if (options.size > max_disk_size)
    return Error(Errc::invalid_argument, "null-co: size is too large");
  if (options.latency_ns > latency_max)
    return Error(Errc::invalid_argument, "latency-ns is invalid");
  return std::unique_ptr<BlockDriver>(std::make_unique<NullDriver>(reactor, options));
}

}  // namespace tidemark
