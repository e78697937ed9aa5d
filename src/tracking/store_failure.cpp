// A store that cannot log: it says on the disk that marks are lost, lets all writes pass, and is made exact
// again by a later checkpoint, for memory has every mark.
#include "tracking/store.hpp"

namespace tidemark::tracking {
namespace {

constexpr Duration retry_after = std::chrono::seconds(5);

}  // namespace

Task<> TrackingStore::fail(Error error) {
  const auto guard = co_await roots_.lock();
  if (failed()) co_return let_pass(error);
  co_await say_lost(error);
}

// Marks are in memory only from here on, so a snapshot of before is not to become the root.
void TrackingStore::let_pass(const Error& error) noexcept {
  ++failures_;
  passing_ = true;
  log_.refuse(error);
  retry_at_ = home_.reactor().now() + retry_after;
}

// With roots_ locked.
Task<> TrackingStore::say_lost(const Error& error) {
  const Error why = error;
  Superblock lost = root_;
  lost.lost = true;
  lost.clean = lost.closed = false;
  lost.version = ++version_;
  // Before the first root there is none to say it with; what of that may have been written is wiped out.
  const bool first = root_.catalogue[0] == 0;
  Result<> said;
  if (first) said = co_await file_.format(root_.log_bytes).result();
  else if (keeps(Rule::say_lost)) said = co_await file_.write_root(lost, durable()).result();
  root_ = std::move(lost);
  if (!said || first) {
    gone_ = true;
    (void)co_await file_.unlink().result();
  }
  anew_ = told_failed_ = true;
  let_pass(why);
  const std::string when = told_as_.graph ? "at the next start" : "after a crash";
  report(StoreReport::Kind::failed, why.message() + ": its bitmaps will be wholly dirty " + when);
}

// Another file in place of one that was removed.
Task<> TrackingStore::renew() {
  log_.rotate(++epoch_last_);
  log_.refuse(Error(Errc::io, "tracking store '" + options_.path + "' is made anew"));     // else what waits goes to the old file
  co_await log_.wait_idle();
  co_await file_.close();
  co_await make();
  Superblock shape = root_;
  shape.log_epoch = ++epoch_last_;
  log_.use(shape);
  gone_ = false;
}

}  // namespace tidemark::tracking
