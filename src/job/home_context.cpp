#include "job/home_context.hpp"

#include "block/node.hpp"
#include "io/visit.hpp"

namespace tidemark {

template <class T>
Task<T> HomeContext::at_manager(Task<T> work) {
  return visit(managed_.home(), manager_, std::move(work));
}

bool HomeContext::drained() const noexcept {
  const Edge* edge = managed_.job().edge();
  return edge && edge->node().quiesced();
}

Task<> HomeContext::show_paused() {
  managed_.show_paused();
  co_return;
}

Task<> HomeContext::checkpoint() {
  do {
    if (drained() && !managed_.signals().interrupted) {
      co_await at_manager(show_paused());
      shown_paused_ = true;
      const InFlight drain_is_over = co_await managed_.job().edge()->enter();
    }
    if (!managed_.signals().interrupted && !shown_paused_) co_return;
    co_await at_manager(managed_.checkpoint());
    shown_paused_ = false;
  } while (drained());
}

Task<> HomeContext::wait() {
  if (!interrupted()) co_await at_manager(wait_there());
}

// What woke the job while it was on its way here was not for nothing.
Task<> HomeContext::wait_there() {
  if (!woken_) co_await managed_.wait();
  woken_ = false;
}

// What is posted from home before the job ends arrives before the news of its end.
void HomeContext::wake() noexcept {
  manager_.post_remote([this] {
    woken_ = true;
    managed_.wake();
  });
}

Task<> HomeContext::sleep(Duration duration) {
  if (!interrupted()) co_await at_manager(managed_.sleep(duration));
}

Task<> HomeContext::charge(std::uint64_t bytes) { return at_manager(managed_.charge(bytes)); }

void HomeContext::refund(std::uint64_t bytes) noexcept {
  manager_.post_remote([this, bytes] { managed_.refund(bytes); });
}

Task<ErrorAction> HomeContext::failed(OnError policy, IoSide side, Error error) {
  return at_manager(managed_.failed(policy, side, std::move(error)));
}

void HomeContext::set_ready() {
  const JobProgress progress = managed_.job().progress();
  manager_.post_remote([this, progress] { managed_.show_ready(progress); });
}

}  // namespace tidemark
