// NbdTransmission's checks: requests that the protocol or the export forbids, and the answers that
// the protocol's document gives them.
#include "export/nbd/transmission.hpp"

namespace tidemark {
namespace {

using nbd::Command;
using nbd::Headers;
namespace flag = nbd::command_flag;

// What a command takes; FUA is allowed with every one of them.
struct Rule {
  Command command;
  std::uint16_t flags;
  std::uint16_t structured_flags;          // with structured replies or extended headers
  std::uint16_t extended_flags;
  bool writes;
  bool has_range;
};
constexpr Rule rules[] = {
    {Command::read, 0, flag::df, 0, false, true},
    {Command::write, 0, 0, flag::payload_len, true, true},
    {Command::flush, 0, 0, 0, false, false},
    {Command::trim, 0, 0, 0, true, true},
    {Command::cache, 0, 0, 0, false, true},
    {Command::write_zeroes, flag::no_hole | flag::fast_zero, 0, 0, true, true},
    {Command::block_status, 0, flag::req_one, flag::payload_len, false, true},
};

const Rule* rule_of(Command command) {
  for (const Rule& rule : rules)
    if (rule.command == command) return &rule;
  return nullptr;
}

}  // namespace

auto NbdTransmission::check(const Request& request) const noexcept -> Verdict {
  const Rule* rule = rule_of(request.command);
  if (!rule) return {Status::invalid, "unknown command"};
  const Verdict flags = check_flags(request);
  if (flags.status != Status::ok) return flags;
  if (rule->writes && !disk_.writable()) return {Status::not_permitted, "export is read-only"};
  if (request.command == Command::block_status && agreement_.contexts.empty())
    return {Status::invalid, "no metadata context negotiated"};
  const bool range_in_payload =
      request.command == Command::block_status && (request.flags & flag::payload_len);
  if (range_in_payload) {
    // Context ids are distinct, so a longer list cannot be right.
    const std::uint64_t longest = 8 + 4 * agreement_.contexts.size();
    if (request.length > longest) return {Status::invalid, "block status payload too long"};
    return {};
  }
  return rule->has_range ? check_range(request) : Verdict();
}

auto NbdTransmission::check_flags(const Request& request) const noexcept -> Verdict {
  const Rule& rule = *rule_of(request.command);
  std::uint16_t allowed = flag::fua | rule.flags;
  if (headers_ != Headers::simple) allowed |= rule.structured_flags;
  if (headers_ == Headers::extended) allowed |= rule.extended_flags;
  if (request.flags & ~allowed) return {Status::invalid, "flags not supported for this command"};
  if (request.command == Command::write && headers_ == Headers::extended &&
      !(request.flags & flag::payload_len))
    return {Status::invalid, "write without payload"};
  return {};
}

auto NbdTransmission::check_range(const Request& request) const noexcept -> Verdict {
  if (!fits(request.offset, request.length, disk_.size())) {
    const bool fills =
        request.command == Command::write || request.command == Command::write_zeroes;
    return {fills ? Status::no_space : Status::invalid, "request beyond the end of the export"};
  }
  if (!is_aligned(request.offset | request.length, agreement_.block_size))
    return {Status::invalid, "request not aligned to the minimum block size"};
  if (request.command == Command::read && request.length > nbd::payload_size_max)
    return {headers_ == Headers::simple ? Status::invalid : Status::overflow,
            "read longer than the maximum payload"};
  if (request.command == Command::block_status && request.length == 0)
    return {Status::invalid, "block status of nothing"};
  return {};
}

}  // namespace tidemark
