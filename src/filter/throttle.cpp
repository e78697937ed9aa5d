#include "filter/throttle.hpp"

#include <algorithm>

#include "filter/turnstile.hpp"
#include "task/sync.hpp"

namespace tidemark {
namespace {

// How often one who waits looks whether limits have changed, or the node is to come to rest.
constexpr Duration look_again = std::chrono::milliseconds(20);

// Whether somebody wants a node at rest whose requests may be waiting here: this one, or one above.
bool wanted_at_rest(const BlockNode& node) noexcept {
  const auto above = [](const Edge* user) { return user->parent() && wanted_at_rest(*user->parent()); };
  return node.quiesced() || std::any_of(node.parents().begin(), node.parents().end(), above);
}

class Throttle final : public Turnstile {
 public:
  Throttle(Reactor& reactor, std::unique_ptr<Edge> file, std::shared_ptr<ThrottleGroup> group)
      : Turnstile(reactor, std::move(file)), group_(std::move(group)), reads_(home()), writes_(home()) {}

  std::string_view name() const noexcept override { return "throttle"; }
  // Who waits goes on at once.
  Task<> cancel_in_flight() override {
    ++let_go_;
    co_return;
  }

 private:
  Task<> pass(RequestKind kind, Range range) override {
    if (kind == RequestKind::flush || kind == RequestKind::map) co_return;
    const bool is_write = kind != RequestKind::read;
    Mutex& queue = is_write ? writes_ : reads_;
    const std::uint64_t let_go = let_go_;
    const auto turn = co_await queue.lock();
    while (!(file().parent() && wanted_at_rest(*file().parent())) && let_go == let_go_) {
      const Duration wait = group_->charge(is_write, range.length, home().reactor().now());
      if (wait == Duration{}) co_return;
      co_await home().reactor().sleep(std::min(wait, look_again));
    }
  }

  std::shared_ptr<ThrottleGroup> group_;
  Mutex reads_, writes_;
  std::uint64_t let_go_ = 0;
};

}  // namespace

std::unique_ptr<BlockDriver> open_throttle(std::unique_ptr<Edge> file, std::shared_ptr<ThrottleGroup> group) {
  Reactor& reactor = file->node().reactor();
  return std::make_unique<Throttle>(reactor, std::move(file), std::move(group));
}

}  // namespace tidemark
