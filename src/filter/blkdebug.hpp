// blkdebug: QEMU's filter that fails requests on purpose.  Rules say at which events of the format above, in which state,
// errors are to be expected from then on, of which requests and where.
//
// Invariant: the errors that are expected are those of the event that came last among those that any rule has an error for.
#pragma once

#include <cerrno>
#include <list>
#include <optional>

#include "filter/turnstile.hpp"

namespace tidemark {

struct BlkdebugError {
  std::uint8_t kinds = 0x1f;                     // of RequestKind, a bit each: all but map
  int os_errno = EIO;                            // 0: only delayed
  std::uint64_t delay_ns = 0;
  std::optional<std::uint64_t> offset;           // requests with this byte; none: any
  bool once = false;

  // Of what users give, which is any number.
  Result<> set_errno(std::int64_t number);
  void set_sector(std::int64_t sector) noexcept;
};

struct BlkdebugRule {
  DebugEvent event = DebugEvent::none;
  std::int64_t state = 0;                        // 0: in any
  std::optional<std::int64_t> new_state;         // that it makes; none: it makes the error
  BlkdebugError error;
};

struct BlkdebugOptions {
  std::vector<BlkdebugRule> rules;
  // As QEMU has them; 0: as the file below.
  std::uint64_t align = 0, max_transfer = 0, opt_write_zero = 0, max_write_zero = 0, opt_discard = 0, max_discard = 0;
  Permissions::Set takes = Permissions::none, unshares = Permissions::none;
};

// Messages are QEMU's.
Result<std::unique_ptr<BlockDriver>> open_blkdebug(BlockNode& file, BlkdebugOptions options);

// The rules of a configuration file, which has QEMU's form: sections [inject-error] and [set-state] with lines KEY = "VALUE".
Result<std::vector<BlkdebugRule>> parse_blkdebug_config(std::string_view text);

// By QEMU's names; none where there is no such thing.
std::optional<DebugEvent> debug_event_of(std::string_view name) noexcept;
std::optional<RequestKind> request_kind_of(std::string_view name) noexcept;

}  // namespace tidemark
