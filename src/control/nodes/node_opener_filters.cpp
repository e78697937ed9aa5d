// NodeOpener's filters: their options, from the schema's types to the filters' own.
#include <fmt/format.h>

#include "control/graph/bitmap_lookup.hpp"
#include "control/graph/chain_lookup.hpp"
#include "control/nodes/node_opener.hpp"
#include "filter/compress.hpp"
#include "filter/copy_before_write.hpp"
#include "filter/copy_on_read.hpp"
#include "filter/fault.hpp"
#include "filter/snapshot_access.hpp"
#include "filter/throttle.hpp"

namespace tidemark {
namespace {

FaultOp to_fault_op(schema::FaultOperation operation) {
  switch (operation) {
    case schema::FaultOperation::read: return FaultOp::read;
    case schema::FaultOperation::write: return FaultOp::write;
    case schema::FaultOperation::write_zeroes: return FaultOp::write_zeroes;
    case schema::FaultOperation::discard: return FaultOp::discard;
    case schema::FaultOperation::flush: return FaultOp::flush;
  }
  return FaultOp::read;
}

Result<FaultRule> to_fault_rule(const schema::FaultRule& given) {
  FaultRule rule;
  if (given.errno_ < 0 || given.errno_ > 4095) return Error(Errc::invalid_argument, "fault: errno is a number from 0 to 4095");
  if (given.operation) rule.op = to_fault_op(*given.operation);
  rule.os_errno = static_cast<int>(given.errno_);
  rule.skip = given.skip;
  rule.count = given.count;
  rule.one_in = given.one_in;
  rule.latency_ns = given.latency_ns;
  rule.jitter_ns = given.jitter_ns;
  if (given.offset != 0 || given.length) {
    const std::uint64_t length = given.length ? given.length->bytes : max_disk_size - given.offset;
    if (given.offset > max_disk_size || length > max_disk_size - given.offset)
      return Error(Errc::out_of_range, "fault: offset and length reach beyond any disk");
    rule.range = Range{given.offset, length};
  }
  return rule;
}

}  // namespace

Task<NodeOpener::Driver> NodeOpener::open_copy_before_write(schema::BlockdevOptionsCbw& filter, const Inherited& own) {
  CopyBeforeWriteOptions given;
  if (filter.bitmap) {
    const FoundBitmap found = co_await unwrap(find_bitmap(graph_, filter.bitmap->node, filter.bitmap->name));
    given.bitmap = found.bitmap;
  }
  given.on_cbw_error = filter.on_cbw_error == schema::OnCbwError::break_snapshot ? OnCbwError::break_snapshot
                                                                                 : OnCbwError::break_guest_write;
  given.backing_later = true;                    // nobody says what the target is for
  given.cbw_timeout_s = filter.cbw_timeout;
  given.min_cluster_size = filter.min_cluster_size;
  given.file = co_await resolve(std::move(filter.file), own);
  Inherited target = own;
  target.read_only = false;
  given.target = co_await resolve(std::move(filter.target), target);
  co_return co_await tidemark::open_copy_before_write(given);
}

Task<NodeOpener::Driver> NodeOpener::open_snapshot_access(schema::BlockdevOptionsGenericFormat& access, const Inherited& own) {
  BlockNode* file = co_await resolve(std::move(access.file), own);
  co_return co_await tidemark::open_snapshot_access(*file);
}

Task<NodeOpener::Driver> NodeOpener::open_copy_on_read(schema::BlockdevOptionsCor& filter, const Inherited& own) {
  CopyOnReadOptions given;
  given.file = co_await resolve(std::move(filter.file), own);
  if (given.file->read_only()) co_await Error(Errc::permission, "Block node is read-only", EROFS);
  if (filter.bottom) {
    given.bottom = graph_.find(*filter.bottom);
    if (!given.bottom) co_await Error(Errc::not_found, fmt::format("Bottom node '{}' not found", *filter.bottom));
    if (given.bottom->driver().is_filter())
      co_await Error(Errc::invalid_argument, fmt::format("Bottom node '{}' is a filter", *filter.bottom));
    if (!chain_contains(*given.file, *given.bottom))
      co_await Error(Errc::invalid_argument, fmt::format("'{}' is not in this backing file chain", *filter.bottom));
  }
  co_return co_await unwrap(tidemark::open_copy_on_read(given));
}

Task<NodeOpener::Driver> NodeOpener::open_compress(schema::BlockdevOptionsGenericFormat& filter, const Inherited& own) {
  BlockNode* file = co_await resolve(std::move(filter.file), own);
  if (file->read_only() && !own.read_only) co_await Error(Errc::permission, "Block node is read-only", EROFS);
  co_return co_await tidemark::open_compress(*file);
}

Task<NodeOpener::Driver> NodeOpener::open_throttle(schema::BlockdevOptionsThrottle& filter, const Inherited& own) {
  const auto group = groups_.find(filter.throttle_group);
  if (group == groups_.end())
    co_await Error(Errc::not_found, fmt::format("Throttle group '{}' does not exist", filter.throttle_group));
  BlockNode* file = co_await resolve(std::move(filter.file), own);
  if (file->read_only() && !own.read_only) co_await Error(Errc::permission, "Block node is read-only", EROFS);
  const Permissions none{Permissions::none, Permissions::all};
  auto edge = co_await unwrap(Edge::attach(*file, Role::filtered, none, "throttle"));
  co_return tidemark::open_throttle(std::move(edge), group->second);
}

Task<NodeOpener::Driver> NodeOpener::open_fault(schema::BlockdevOptionsFault& filter, const Inherited& own) {
  FaultOptions given;
  given.seed = filter.seed;
  if (filter.rules)
    for (const auto& rule : *filter.rules) given.rules.push_back(co_await unwrap(to_fault_rule(rule)));
  given.file = co_await resolve(std::move(filter.file), own);
  co_return co_await unwrap(tidemark::open_fault(std::move(given)));
}

}  // namespace tidemark
