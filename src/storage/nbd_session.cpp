#include "storage/nbd_session.hpp"

#include <algorithm>
#include <cerrno>

#include "nbd/status.hpp"
#include "task/cancel_follower.hpp"
#include "task/detached.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t requests_max = 128;      // in flight
constexpr Duration handshake_max = std::chrono::seconds(30);
constexpr Duration pause_min = std::chrono::seconds(1), pause_max = std::chrono::seconds(16);

// Of what is not flushed: from where on it is, unasked, and from where on writes wait for that.
constexpr std::uint64_t unflushed_many = 32 * MiB, unflushed_max = 64 * MiB;

constexpr unsigned relied_on = nbd::export_flag::send_flush | nbd::export_flag::send_fua |
                               nbd::export_flag::send_trim | nbd::export_flag::send_write_zeroes |
                               nbd::export_flag::send_fast_zero;

std::string_view verb(nbd::Command command) {
  switch (command) {
    case nbd::Command::read: return "read";
    case nbd::Command::write: return "write";
    case nbd::Command::flush: return "flush";
    case nbd::Command::trim: return "discard";
    case nbd::Command::write_zeroes: return "write zeroes";
    case nbd::Command::block_status: return "block status";
    default: return "request";
  }
}

}  // namespace

NbdSession::NbdSession(Reactor& reactor, NbdOptions options)
    : reactor_(reactor), options_(std::move(options)), changed_(reactor),
      slots_(reactor, requests_max), running_(reactor) {}

std::string NbdSession::describe() const {
  return "NBD server '" + options_.server.describe() + "'";
}

Task<> NbdSession::open() {
  const Instant until = reactor_.now() + options_.open_timeout;
  for (;;) {
    auto link = co_await connect().result();
    if (link) co_return use(*std::move(link));
    if (reactor_.now() + pause_min > until || options_.given_up.requested()) co_await link.error();
    co_await reactor_.sleep(pause_min, options_.given_up);
  }
}

Task<std::shared_ptr<NbdLink>> NbdSession::connect() {
  attempt_.emplace();
  const CancelFollower given_up(*attempt_, opened_ ? CancelToken() : options_.given_up);
  bool late = false;
  const auto within_limit = [&](TaskGroup& group) -> Task<std::shared_ptr<NbdLink>> {
    group.spawn(expire(group.token(), late));
    co_return co_await connect_once(attempt_->token());
  };
  auto link = co_await with_group(reactor_, within_limit).result();
  attempt_.reset();
  if (late && !link) co_await Error(Errc::timed_out, describe() + ": no answer", ETIMEDOUT);
  if (!link) co_await link.error().with_context(describe());
  co_return *std::move(link);
}

Task<> NbdSession::expire(CancelToken token, bool& late) {
  co_await reactor_.sleep(handshake_max, token);
  late = true;
  attempt_->request();
}

Task<std::shared_ptr<NbdLink>> NbdSession::connect_once(CancelToken token) {
  Socket socket = co_await Socket::connect(reactor_, options_.server, token);
  auto terms = co_await nbd_shake_hands(socket, options_.export_name, token).result();
  Result<> usable = terms ? check_terms(*terms) : Result<>(terms.error());
  if (!usable) {
    (void)co_await socket.close().result();
    co_await usable.error();
  }
  if (!opened_) terms_ = *terms;
  opened_ = true;
  co_return std::make_shared<NbdLink>(std::move(socket), *terms);
}

Result<> NbdSession::check_terms(const NbdTerms& terms) const {
  const bool read_only = (terms.info.flags & nbd::export_flag::read_only) != 0;
  if (read_only && !options_.read_only)
    return Error(Errc::permission, "request on denied for read-only export", EACCES);
  if (terms.sizes_known && !is_aligned(terms.info.size, terms.sizes.minimum))
    return Error(Errc::unsupported, "export length " + std::to_string(terms.info.size) +
                                        " is not a multiple of minimum block size " +
                                        std::to_string(terms.sizes.minimum), EINVAL);
  if (!opened_) return {};
  const bool smaller = terms.info.size < terms_.info.size;
  const bool less_able = (terms_.info.flags & ~terms.info.flags & relied_on) != 0;
  const bool coarser = terms.sizes.minimum > terms_.sizes.minimum ||
                       terms.sizes.maximum_payload < terms_.sizes.maximum_payload;
  if (smaller || less_able || coarser || (terms_.allocation && !terms.allocation))
    return Error(Errc::invalid_argument, "the export is not what it was before", EIO);
  return {};
}

void NbdSession::use(std::shared_ptr<NbdLink> link) {
  link_ = std::move(link);
  patient_ = true;
  repeating_ = !unflushed_.empty();
  run_detached(keep_connected(link_), running_.enter());
  if (repeating_) run_detached(repeat_unflushed(link_), running_.enter());
  changed_.notify_all();
}

Task<> NbdSession::repeat_unflushed(std::shared_ptr<NbdLink> link) {
  std::uint64_t newest = 0;
  while (const auto entry = unflushed_.after(newest)) {
    NbdExchange exchange = entry->exchange();
    co_await link->perform(exchange);
    if (exchange.lost) co_return;                        // the next one gets them all
    newest = entry->number;
    if (exchange.error == 0) continue;
    untold_ = failure(exchange).with_context("written again after the connection was lost");
    unflushed_.forget(unflushed_.last());
  }
  repeating_ = false;
  changed_.notify_all();
}

Task<> NbdSession::keep_connected(std::shared_ptr<NbdLink> link) {
  co_await link->run();
  const std::string why = link->why().message();
  lost_ = Error(Errc::disconnected, describe() + ": the connection was lost: " + why, EIO);
  link_.reset();
  patient_ = options_.reconnect_delay != Duration::zero() && may_repeat(link->why());
  changed_.notify_all();
  const bool at_once = link->answered();
  link.reset();
  if (!closing_) co_await reconnect(at_once);
}

Task<> NbdSession::reconnect(bool at_once) {
  const auto until_there = [&](TaskGroup& group) -> Task<> {
    group.spawn(lose_patience(group.token()));
    Duration pause = at_once ? Duration::zero() : pause_min;
    while (!closing_) {
      attempt_.emplace();
      (void)co_await reactor_.sleep(pause, attempt_->token()).result();
      attempt_.reset();
      if (closing_) co_return;
      auto link = co_await connect().result();
      if (link && !closing_) co_return use(*std::move(link));
      if (link) {
        co_await (*link)->leave();
        co_return co_await (*link)->run();
      }
      lost_ = Error(Errc::disconnected, link.error().message(), EIO);
      pause = std::clamp(pause * 2, pause_min, pause_max);
    }
  };
  (void)co_await with_group(reactor_, until_there).result();
}

Task<> NbdSession::lose_patience(CancelToken token) {
  if (patient_) co_await reactor_.sleep(options_.reconnect_delay, token);
  patient_ = false;
  changed_.notify_all();
}

// A link to send a request by, waited for no longer than `until`.
Task<std::shared_ptr<NbdLink>> NbdSession::current_link(Instant until) {
  for (;;) {
    if (link_ && !link_->ended() && !repeating_) co_return link_;
    if (!link_ && (closing_ || !patient_ || reactor_.now() > until)) co_await *lost_;
    co_await changed_.wait();
  }
}

Task<> NbdSession::perform(NbdExchange exchange, std::optional<nbd::Extent>* extent) {
  const bool flush = exchange.command == nbd::Command::flush;
  co_await slots_.acquire();
  Task<> sending = flush ? transmit_flush(exchange) : transmit(exchange);
  const Result<> done = co_await std::move(sending).result();
  slots_.release();
  co_await unwrap(done);
  if (exchange.error != 0) co_await failure(exchange);
  if (flush && untold_) co_await *std::exchange(untold_, std::nullopt);
  if (extent) *extent = exchange.extent;
}

Task<> NbdSession::transmit(NbdExchange& exchange) {
  if (UnflushedWrites::changes(exchange.command))
    while (unflushed_.bytes() > unflushed_max && flushing_early_) co_await changed_.wait();
  Instant until = no_deadline;
  for (;;) {
    const std::shared_ptr<NbdLink> link = co_await current_link(until);
    const std::uint64_t newest = unflushed_.last();
    exchange.lost = false;
    co_await link->perform(exchange);
    if (!exchange.lost) co_return note_answer(exchange, newest);
    if (!may_repeat(link->why())) co_await link->why().with_context(describe());
    until = std::min(until, reactor_.now() + options_.reconnect_delay);
  }
}

// Of two flushes side by side one may be told what the other should have been, so there are none that nobody has asked for.
Task<> NbdSession::transmit_flush(NbdExchange& exchange) {
  while (flushing_early_) co_await changed_.wait();
  ++flushes_;
  const Result<> done = co_await transmit(exchange).result();
  --flushes_;
  co_await unwrap(done);
}

void NbdSession::note_answer(const NbdExchange& exchange, std::uint64_t newest_before) {
  const bool flushes = (terms_.info.flags & nbd::export_flag::send_flush) != 0;
  if (exchange.command == nbd::Command::flush) unflushed_.forget(newest_before);      // if it has failed, somebody knows
  else if (exchange.error == 0 && flushes) unflushed_.add(exchange);
  if (unflushed_.bytes() <= unflushed_many || flushing_early_ || flushes_ != 0 || closing_) return;
  flushing_early_ = true;
  run_detached(flush_early(), running_.enter());
}

Task<> NbdSession::flush_early() {
  NbdExchange flush;
  flush.command = nbd::Command::flush;
  const Result<> answered = co_await transmit(flush).result();
  if (answered && flush.error != 0) untold_ = failure(flush);
  flushing_early_ = false;
  changed_.notify_all();
}

bool NbdSession::may_repeat(const Error& why) noexcept {
  return why.code() != Errc::invalid_format && why.code() != Errc::cancelled;
}

Task<> NbdSession::cancel_in_flight() {
  if (link_ && link_->pending()) link_->cancel();
  if (!link_) patient_ = false;
  changed_.notify_all();
  co_return;
}

Error NbdSession::failure(const NbdExchange& exchange) const {
  const int os_errno = nbd::to_errno(nbd::known_status(exchange.error));
  std::string what = describe() + ": " + std::string(verb(exchange.command));
  if (exchange.command != nbd::Command::flush)
    what += " of " + std::to_string(exchange.range.length) + " bytes at " +
            std::to_string(exchange.range.offset);
  if (!exchange.message.empty()) what += ": " + exchange.message;
  return Error::from_errno(os_errno, what);
}

Task<> NbdSession::close() {
  closing_ = true;
  if (attempt_) attempt_->request();
  changed_.notify_all();
  if (const std::shared_ptr<NbdLink> link = link_) co_await link->leave();
  co_await running_.wait_idle();
}

}  // namespace tidemark
