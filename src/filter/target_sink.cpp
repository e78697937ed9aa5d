#include "filter/target_sink.hpp"

#include <algorithm>

#include "block/status.hpp"

namespace tidemark {
namespace {

// The bytes of the first run of granules that are alike: zero or not.
std::size_t first_run(const Buffers& data, std::size_t granule, bool& zero) {
  const auto zero_at = [&](std::size_t at) {
    return data.slice(at, std::min(granule, data.size() - at)).all_zero();
  };
  zero = zero_at(0);
  std::size_t end = std::min(granule, data.size());
  while (end < data.size() && zero_at(end) == zero) end = std::min(end + granule, data.size());
  return end;
}

}  // namespace

Task<> TargetSink::keep(std::uint64_t offset, Buffers data) {
  while (!data.empty()) {
    bool zero = false;
    const std::size_t length = first_run(data, options_.granule, zero);
    const Buffers run = data.first(length);
    const Range range{offset, length};
    if (options_.witness && !zero) co_await options_.witness->data(offset, run);
    if (zero)
      co_await keep_zeroes(range);
    else if (options_.compress)
      co_await target_.write_compressed(offset, run);
    else
      co_await target_.write(offset, run);
    offset += length;
    data = data.from(length);
  }
}

Task<bool> holes_say_zero(BlockNode& target) {
  const auto info = co_await skip_filters(target).driver().info().result();
  co_return !(info && info->qcow2 && info->qcow2->compat == "0.10");
}

Task<> TargetSink::keep_zeroes(Range range) {
  if (options_.witness) co_await options_.witness->zeroes(range);
  const WriteFlags how = options_.unmap ? WriteFlags::may_unmap : WriteFlags::none;
  if (options_.backing_later) co_return co_await target_.write_zeroes(range, how);
  if (options_.target_is_zero) co_return;
  while (!range.empty()) {
    BlockNode& layer = skip_filters(target_.node());
    const BlockStatus status = co_await block_status_above(layer, layer.backing(), range);
    const Range part = status.range;
    bool there = status.zero;
    if (there && !status.allocated) there = !co_await shows_hidden_backing();
    if (!there) co_await target_.write_zeroes(part, how);
    range = {part.end(), range.length - part.length};
  }
}

// An image that is open without the backing file it names: what it does not hold is zero only here.
Task<bool> TargetSink::shows_hidden_backing() {
  if (hidden_backing_) co_return *hidden_backing_;
  BlockNode& layer = skip_filters(target_.node());
  const auto info = co_await layer.driver().info().result();
  hidden_backing_ = info && !info->backing_filename.empty() && !layer.backing();
  co_return *hidden_backing_;
}

Task<Extent> TargetSink::map(Range wanted) {
  const BlockStatus status = co_await block_status_above(target_.node(), nullptr, wanted);
  co_return Extent{status.range, status.zero ? Mapping::zero : Mapping::data, std::nullopt};
}

}  // namespace tidemark
