// NodeOpener's blkdebug: its options, from the schema's types to the filter's own.
#include <cerrno>
#include <tuple>

#include <fmt/format.h>

#include "control/nodes/node_opener.hpp"
#include "filter/blkdebug.hpp"
#include "io/file.hpp"

namespace tidemark {
namespace {

Permissions::Set to_permissions(const std::optional<std::vector<schema::BlockPermission>>& given) {
  if (!given) return Permissions::none;
  unsigned set = Permissions::none;
  for (const schema::BlockPermission one : *given) {
    if (one == schema::BlockPermission::consistent_read) set |= Permissions::consistent_read;
    if (one == schema::BlockPermission::write) set |= Permissions::write;
    if (one == schema::BlockPermission::write_unchanged) set |= Permissions::write_unchanged;
    if (one == schema::BlockPermission::resize) set |= Permissions::resize;
  }
  return static_cast<Permissions::Set>(set);
}

// Names are the same on both sides.
Result<BlkdebugRule> to_rule(const schema::BlkdebugInjectErrorOptions& given) {
  BlkdebugRule rule;
  rule.event = *debug_event_of(schema::to_string(given.event));
  rule.state = given.state.value_or(0);
  if (given.iotype)
    rule.error.kinds = static_cast<std::uint8_t>(1u << static_cast<unsigned>(*request_kind_of(schema::to_string(*given.iotype))));
  const Result<std::uint64_t> delay = to_unsigned("delay-ns", given.delay_ns.value_or(0));
  if (!delay) return delay.error();
  rule.error.delay_ns = *delay;
  rule.error.once = given.once.value_or(false);
  rule.error.set_sector(given.sector.value_or(-1));
  if (auto ok = rule.error.set_errno(given.errno_.value_or(EIO)); !ok) return ok.error();
  return rule;
}

BlkdebugRule to_rule(const schema::BlkdebugSetStateOptions& given) {
  BlkdebugRule rule;
  rule.event = *debug_event_of(schema::to_string(given.event));
  rule.state = given.state.value_or(0);
  rule.new_state = given.new_state;
  return rule;
}

Result<std::uint64_t> not_negative(const char* option, std::int64_t value) {
  if (value >= 0) return static_cast<std::uint64_t>(value);
  return Error(Errc::invalid_argument, fmt::format("Parameter '{}' expects a non-negative number below 2^64", option));
}

Result<BlkdebugOptions> to_options(const schema::BlockdevOptionsBlkdebug& given) {
  BlkdebugOptions options;
  const std::tuple<const char*, std::int64_t, std::uint64_t*> sizes[] = {
      {"align", given.align.value_or(0), &options.align},
      {"max-transfer", given.max_transfer.value_or(0), &options.max_transfer},
      {"opt-write-zero", given.opt_write_zero.value_or(0), &options.opt_write_zero},
      {"max-write-zero", given.max_write_zero.value_or(0), &options.max_write_zero},
      {"opt-discard", given.opt_discard.value_or(0), &options.opt_discard},
      {"max-discard", given.max_discard.value_or(0), &options.max_discard}};
  for (const auto& [option, value, place] : sizes) {
    const auto size = not_negative(option, value);
    if (!size) return size.error();
    *place = *size;
  }
  options.takes = to_permissions(given.take_child_perms);
  options.unshares = to_permissions(given.unshare_child_perms);
  if (given.inject_error)
    for (const auto& one : *given.inject_error) {
      const auto rule = to_rule(one);
      if (!rule) return rule.error();
      options.rules.push_back(*rule);
    }
  if (given.set_state)
    for (const auto& one : *given.set_state) options.rules.push_back(to_rule(one));
  return options;
}

Task<std::vector<BlkdebugRule>> read_rules(Reactor& reactor, std::string path) {
  constexpr std::uint64_t size_max = MiB;
  const auto text = co_await fs::read_all(reactor, std::move(path), size_max).result();
  if (!text) co_await Error::from_errno(text.error().to_errno(), "Could not read blkdebug config file");
  co_return co_await unwrap(parse_blkdebug_config(*text));
}

}  // namespace

Task<NodeOpener::Driver> NodeOpener::open_blkdebug(schema::BlockdevOptionsBlkdebug& filter, const Inherited& own) {
  BlkdebugOptions given = co_await unwrap(to_options(filter));
  if (filter.config) {
    const std::vector<BlkdebugRule> more = co_await read_rules(graph_.reactor(), *filter.config);
    given.rules.insert(given.rules.begin(), more.begin(), more.end());
  }
  BlockNode* file = co_await resolve(std::move(filter.image), own);
  co_return co_await unwrap(tidemark::open_blkdebug(*file, std::move(given)));
}

}  // namespace tidemark
