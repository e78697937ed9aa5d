#include "storage/nbd_session.hpp"

#include <algorithm>
#include <cerrno>

#include "nbd/status.hpp"
#include "task/cancel_follower.hpp"
#include "task/detached.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t requests_max = 128;      // in flight
constexpr Duration handshake_max = std::chrono::seconds(30), silence_first = handshake_max;
constexpr Duration end_of_writing_max = std::chrono::seconds(1), last_flush_max = std::chrono::seconds(5);
constexpr Duration pause_min = std::chrono::seconds(1), pause_max = std::chrono::seconds(16);

// Of what is not flushed: from where on it is, unasked, and from where on writes wait for that.
constexpr std::uint64_t unflushed_many = 32 * MiB, unflushed_max = 64 * MiB;

constexpr unsigned relied_on = nbd::export_flag::send_flush | nbd::export_flag::send_fua |
                               nbd::export_flag::send_trim | nbd::export_flag::send_write_zeroes |
                               nbd::export_flag::send_fast_zero;

// As many as may go side by side: no two have bytes in common.
std::size_t apart_until(const std::vector<UnflushedWrites::Piece>& pieces, std::size_t begin) {
  RangeSet taken;
  std::size_t end = begin;
  while (end != pieces.size() && end - begin < requests_max && !taken.meets(pieces[end].range)) taken.add(pieces[end++].range);
  return end;
}

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
    : reactor_(reactor), options_(std::move(options)), silence_(silence_first), changed_(reactor),
      slots_(reactor, requests_max), changes_(reactor), running_(reactor) {}

std::string NbdSession::describe() const {
  return "NBD server '" + options_.server.describe() + "'";
}

Task<> NbdSession::open() {
  const Instant until = reactor_.now() + options_.open_timeout;
  for (;;) {
    auto link = co_await connect(until).result();
    if (link) {
      run(*link);
      co_return run_detached(keep_connected(*std::move(link)), running_.enter());
    }
    if (reactor_.now() + pause_min > until || options_.given_up.requested()) co_await link.error();
    co_await reactor_.sleep(pause_min, options_.given_up);
  }
}

Task<std::shared_ptr<NbdLink>> NbdSession::connect(Instant until) {
  attempt_.emplace();
  const CancelFollower given_up(*attempt_, opened_ ? CancelToken() : options_.given_up);
  bool late = false;
  const auto within_limit = [&](TaskGroup& group) -> Task<std::shared_ptr<NbdLink>> {
    group.spawn(expire(until, group.token(), late));
    co_return co_await connect_once(attempt_->token());
  };
  auto link = co_await with_group(reactor_, within_limit).result();
  attempt_.reset();
  if (late && !link) co_await Error(Errc::timed_out, describe() + ": no answer", ETIMEDOUT);
  if (!link) co_await link.error().with_context(describe());
  co_return *std::move(link);
}

Task<> NbdSession::expire(Instant until, CancelToken token, bool& late) {
  const Duration left = options_.open_timeout == Duration::zero() ? handshake_max : until - reactor_.now();
  co_await reactor_.sleep(std::min(handshake_max, left), token);
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
  const bool odd_end = terms.sizes_known && !is_aligned(terms_.info.size, terms.unit());
  const bool coarser = terms.unit() > terms_.unit() || terms.data_max() < terms_.data_max() || odd_end;
  if (smaller || less_able || coarser || (terms_.allocation && !terms.allocation))
    return Error(Errc::invalid_argument, "the export is not what it was before", EIO);
  return {};
}

void NbdSession::run(std::shared_ptr<NbdLink> link) { run_detached(run_to_its_end(std::move(link)), running_.enter()); }

Task<> NbdSession::run_to_its_end(std::shared_ptr<NbdLink> link) {
  co_await link->run();
  changed_.notify_all();
}

Task<> NbdSession::keep_connected(std::shared_ptr<NbdLink> link) {
  while (link) {
    link_ = link;
    patient_ = true;
    served_ = false;
    changed_.notify_all();
    if (closing_) co_await link->leave();                // close() found none
    while (!link->over()) co_await changed_.wait();
    const std::string why = link->why().message();
    lost_ = Error(Errc::disconnected, describe() + ": the connection was lost: " + why, EIO);
    drop_ownerless();
    link_.reset();
    patient_ = options_.reconnect_delay != Duration::zero() && may_repeat(link->why());
    changed_.notify_all();
    link.reset();
    link = co_await reconnect(served_);
  }
}

Task<std::shared_ptr<NbdLink>> NbdSession::reconnect(bool at_once) {
  const auto until_there = [&](TaskGroup& group) -> Task<std::shared_ptr<NbdLink>> {
    group.spawn(lose_patience(group.token()));
    for (Duration pause = at_once ? Duration::zero() : pause_min; !closing_; pause = std::clamp(pause * 2, pause_min, pause_max)) {
      attempt_.emplace();
      (void)co_await reactor_.sleep(pause, attempt_->token()).result();
      attempt_.reset();
      if (closing_) break;
      auto link = co_await connect().result();
      if (!link) {
        lost_ = Error(Errc::disconnected, link.error().message(), EIO);
        continue;
      }
      run(*link);
      const bool ready = co_await repeat_unflushed(*link);
      if (ready) co_return *std::move(link);
      co_await (*link)->leave();
      lost_ = Error(Errc::disconnected, describe() + ": the connection was lost: " + (*link)->why().message(), EIO);
    }
    co_return nullptr;
  };
  auto link = co_await with_group(reactor_, until_there).result();
  if (!link) co_return nullptr;
  co_return *std::move(link);
}

Task<bool> NbdSession::repeat_unflushed(std::shared_ptr<NbdLink> link) {
  next_ = link;
  const std::vector<UnflushedWrites::Piece> pieces = unflushed_.pieces();
  const auto while_it_answers = [&](TaskGroup& watching) -> Task<> {
    watching.spawn(give_up_silent(*link, watching.token()));
    for (std::size_t at = 0, end = 0; at != pieces.size() && !closing_ && link->takes_requests(); at = end) {
      end = apart_until(pieces, at);
      const auto side_by_side = [&](TaskGroup& group) -> Task<> {
        for (std::size_t i = at; i != end; ++i) group.spawn(repeat(*link, pieces[i]));
        co_await group.join();
      };
      (void)co_await with_group(reactor_, side_by_side).result();
    }
  };
  if (!pieces.empty()) (void)co_await with_group(reactor_, while_it_answers).result();
  next_.reset();
  changed_.notify_all();
  const bool ready = !closing_ && link->takes_requests();
  if (ready) silence_ = silence_first;
  co_return ready;
}

Task<> NbdSession::repeat(NbdLink& link, const UnflushedWrites::Piece& piece) {
  NbdExchange exchange = piece.exchange();
  co_await link.perform(exchange);
  if (exchange.lost) co_return;
  ++repeated_;
  const bool advice = exchange.command == nbd::Command::trim;
  if (exchange.error == 0 || advice) co_return;
  const bool owned = piece.entry->number > ownerless_;
  (owned ? lost_writes_ : lost_once_) = failure(exchange).with_context("written again after the connection was lost");
}

Task<> NbdSession::give_up_silent(NbdLink& link, CancelToken token) {
  for (std::uint64_t before = repeated_;; before = repeated_) {
    co_await reactor_.sleep(silence_, token);
    if (repeated_ != before) continue;
    silence_ *= 2;                                       // it may be slow: the next time it gets longer
    link.give_up();
  }
}

Task<> NbdSession::lose_patience(CancelToken token) {
  if (patient_) co_await reactor_.sleep(options_.reconnect_delay, token);
  patient_ = false;
  changed_.notify_all();
}

// A link to send a request by, waited for no longer than `until`.
Task<std::shared_ptr<NbdLink>> NbdSession::current_link(Instant until) {
  for (;;) {
    if (link_ && !link_->ended()) co_return link_;
    if (!link_ && (closing_ || !patient_ || reactor_.now() > until)) co_await *lost_;
    co_await changed_.wait();
  }
}

Task<> NbdSession::perform(NbdExchange exchange, std::optional<nbd::Extent>* extent) {
  const bool flush = exchange.command == nbd::Command::flush;
  co_await take_slot(UnflushedWrites::changes(exchange.command));
  const bool change = UnflushedWrites::changes(exchange.command);
  Task<> sending = flush ? transmit_flush(exchange) : change ? transmit_change(exchange) : transmit(exchange);
  const Result<> done = co_await std::move(sending).result();
  slots_.release();
  co_await unwrap(done);
  if (exchange.error != 0) co_await failure(exchange);
  const bool durable = flush || (exchange.flags & nbd::command_flag::fua) != 0;
  if (durable && lost_writes_) co_await *lost_writes_;
  if (flush && lost_once_) co_await *std::exchange(lost_once_, std::nullopt);
  if (extent) *extent = exchange.extent;
}

Task<> NbdSession::take_slot(bool changes) {
  for (;;) {
    while (changes && full()) co_await changed_.wait();
    co_await slots_.acquire();
    if (!changes || !full()) co_return;
    slots_.release();
  }
}

bool NbdSession::full() const noexcept { return unflushed_.bytes() > unflushed_max && (flushing_early_ || flushes_ != 0); }

// The server may answer what it does at once in any order, and what was written first would be the last that is sent again.
Task<> NbdSession::transmit_change(NbdExchange& exchange) {
  auto alone = changes_.hold(exchange.range, RangeLock::Mode::exclusive);
  co_await alone;
  co_await transmit(exchange);
}

Task<> NbdSession::transmit(NbdExchange& exchange) {
  Instant until = no_deadline;
  for (;;) {
    const std::shared_ptr<NbdLink> link = co_await current_link(until);
    const std::uint64_t newest = unflushed_.last();
    exchange.forget_answer();                            // of a link that was lost in the middle of it
    co_await link->perform(exchange);
    if (!exchange.lost) co_return note_answer(exchange, newest);
    if (!may_repeat(link->why())) co_await link->why().with_context(describe());
    until = std::min(until, reactor_.now() + options_.reconnect_delay);
  }
}

// Of two flushes side by side one may be told what the other should have been, so there are none that nobody has asked for.
Task<> NbdSession::transmit_flush(NbdExchange& exchange) {
  ++flushes_;
  while (flushing_early_) co_await changed_.wait();
  const Result<> done = co_await transmit(exchange).result();
  --flushes_;
  flush_ended();
  co_await unwrap(done);
}

void NbdSession::note_answer(const NbdExchange& exchange, std::uint64_t newest_before) {
  served_ = true;
  const bool flushes = (terms_.info.flags & nbd::export_flag::send_flush) != 0;
  if (exchange.command == nbd::Command::flush) unflushed_.forget(newest_before);      // if it has failed, somebody knows
  else if (exchange.error == 0 && flushes) unflushed_.add(exchange);
  if (unflushed_.bytes() > unflushed_many) begin_flush();
}

void NbdSession::begin_flush() noexcept {
  if (flushing_early_ || flushes_ != 0 || closing_) return;
  flushing_early_ = true;
  run_detached(flush_early(), running_.enter());
}

Task<> NbdSession::flush_early() {
  NbdExchange flush;
  flush.command = nbd::Command::flush;
  const Result<> answered = co_await transmit(flush).result();
  if (answered && flush.error != 0) lost_once_ = failure(flush);
  flushing_early_ = false;
  flush_ended();
}

// What was answered while it was under way may be the last of those who have gone.
void NbdSession::flush_ended() noexcept {
  changed_.notify_all();
  if (link_ && unflushed_.any_until(ownerless_)) begin_flush();
}

// Who wrote it may still ask, as a job does that lets go of its target first.
void NbdSession::drop_ownerless() {
  if (!unflushed_.any_until(ownerless_)) return;
  lost_once_ = lost_->with_context("what was written before is not durable");
  unflushed_.forget(ownerless_);
}

bool NbdSession::may_repeat(const Error& why) noexcept {
  return why.code() != Errc::invalid_format && why.code() != Errc::cancelled;
}

Task<> NbdSession::cancel_in_flight() {
  if (link_ && (link_->pending() || link_->ended())) link_->cancel();
  if (next_) next_->cancel();
  if (!link_) patient_ = false;
  changed_.notify_all();
  co_return;
}

void NbdSession::writers_gone() noexcept {
  ownerless_ = unflushed_.last();
  if (next_) next_->send_no_more();
  if (!link_) drop_ownerless();
  else if (!link_->ended() && !unflushed_.empty()) begin_flush();
}

Task<> NbdSession::end_writing() {
  writers_gone();
  const std::shared_ptr<NbdLink> link = next_;
  bool silent = false;
  const auto give_up = [this, &link, &silent](CancelToken token) -> Task<> {
    co_await reactor_.sleep(end_of_writing_max, token);
    silent = true;
    link->give_up();
  };
  const auto within_limit = [&](TaskGroup& group) -> Task<> {
    group.spawn(give_up(group.token()));
    while (next_ == link) co_await changed_.wait();
  };
  if (link) co_await with_group(reactor_, within_limit);
  if (silent)
    co_await Error(Errc::timed_out, describe() + ": the server has not answered what was sent to it, and may write it later", ETIMEDOUT);
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

Task<> NbdSession::wait_flushed_early() {
  bool late = false;
  const auto expire = [this, &late](CancelToken token) -> Task<> {
    co_await reactor_.sleep(last_flush_max, token);
    late = true;
    changed_.notify_all();
  };
  const auto within_limit = [&](TaskGroup& group) -> Task<> {
    group.spawn(expire(group.token()));
    while (flushing_early_ && link_ && !link_->ended() && !late) co_await changed_.wait();
  };
  lost_once_.reset();
  if (flushing_early_) co_await with_group(reactor_, within_limit);
  if (late)
    co_await Error(Errc::timed_out, describe() + ": the server has not answered a flush; what was written before may not be durable",
                   ETIMEDOUT);
  if (lost_once_) co_await lost_once_->with_context("what was written before may be lost");
}

Task<> NbdSession::close() {
  const Result<> flushed = co_await wait_flushed_early().result();
  closing_ = true;
  if (attempt_) attempt_->request();
  changed_.notify_all();
  std::shared_ptr<NbdLink> link = link_;
  if (!link) link = next_;
  if (link) co_await link->leave();
  co_await running_.wait_idle();
  co_await unwrap(flushed);
}

}  // namespace tidemark
