// Rules: what the store relies on, one by one.  All are kept, but in tests which show that each is needed.
#pragma once

#include <cstdint>

namespace tidemark::tracking {

enum class Rule : std::uint8_t {
  none,
  wait_for_log,              // a write waits until its mark is durable
  log_durably,               // a log write that has ended is on stable storage
  end_zones,                 // at a checkpoint's moment what is logged only, and not in it, ends
  wait_for_older_logs,       // before that moment no log write of the old epoch is under way
  cover_after_turn,          // what a checkpoint has admits writes once the root names it, not earlier
  sync_before_turn,          // a root names only what is durable
  flush_before_loss,         // bits are forgotten after the disk was flushed
  keep_until_released,       // a plain checkpoint keeps what memory has dropped
  uncover_losses,            // bits that are forgotten admit no write
  turn_if_none_passed,       // a snapshot of before writes began to pass does not become the root
  say_lost,                  // a store that cannot log says so on the disk before it lets writes pass
  recover_both_epochs,       // what was logged while a checkpoint was under way counts, too
  recover_frozen,            // a job's frozen bits and the successor's are both dirty after a crash
};

}  // namespace tidemark::tracking
