// Rules: what the engine relies on, one by one.  All are kept, but in tests which show that each is needed:
// their graphs have Workings of their own.
#pragma once

#include "base/units.hpp"

namespace tidemark {

enum class Rule : std::uint8_t {
  none,
  // tracking
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
  mark_image,                // a store that was not closed counts only while its image carries the mark
  recover_frozen,            // a job's frozen bits and the successor's are both dirty after a crash
  // format/qcow2
  data_before_tables,        // a table points at data that is there
  refcounts_before_tables,   // ... and that is counted
  tables_before_header,      // the header points at tables that are there
  mark_before_tables,        // an image whose refcounts are not kept says so before that shows
  // filter, job
  preserve_before_write,     // what a guest overwrites is copied to the point first
  flush_target,              // a backup succeeds when its target is durable
  reclaim_on_failure,        // a backup that fails gives its bits back
  flush_preserved,           // what a commit preserves in other images is durable before the base is written
  // control
  drain_together,            // a transaction's nodes are at rest from its first action to its last
  intend_before_record,      // all stores of a group have what it comes to before one has it on record that it ended well
  save_before_reply,         // what a command has done to bitmaps is durable when it is answered
};

// How a graph's engine works inside, where that is not the same for all.
struct Workings {
  Rule broken = Rule::none;
  std::uint64_t tracking_log_bytes = 4 * MiB;      // of each half, of a new store
  std::uint64_t staging_least = 4 * MiB;           // that a backup may be given: a request's room is not more
};

}  // namespace tidemark
