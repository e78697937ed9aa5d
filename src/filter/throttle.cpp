#include "filter/throttle.hpp"

#include <algorithm>

#include "filter/pass_through.hpp"
#include "task/sync.hpp"

namespace tidemark {
namespace {

// How often one who waits looks whether limits have changed, or the node is to come to rest.
constexpr Duration look_again = std::chrono::milliseconds(20);

class Throttle final : public PassThrough {
 public:
  Throttle(Reactor& reactor, std::unique_ptr<Edge> file, std::shared_ptr<ThrottleGroup> group)
      : PassThrough(reactor, std::move(file)), group_(std::move(group)), reads_(home()), writes_(home()) {}

  std::string_view name() const noexcept override { return "throttle"; }
  // Who waits goes on at once.
  Task<> cancel_in_flight() override {
    ++let_go_;
    co_return;
  }

  Task<> read(std::uint64_t offset, Buffers into) override {
    co_await wait_turn(false, into.size());
    co_await file().read(offset, into);
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    co_await wait_turn(true, from.size());
    co_await file().write(offset, from, flags);
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override {
    co_await wait_turn(true, range.length);
    co_await file().write_zeroes(range, flags);
  }
  Task<> discard(Range range) override {
    co_await wait_turn(true, range.length);
    co_await file().discard(range);
  }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override {
    co_await wait_turn(true, from.size());
    co_await file().write_compressed(offset, from);
  }

 private:
  bool wanted_at_rest() const noexcept { return file().parent() && file().parent()->quiesced(); }

  Task<> wait_turn(bool is_write, std::uint64_t bytes) {
    Mutex& queue = is_write ? writes_ : reads_;
    const std::uint64_t let_go = let_go_;
    const auto turn = co_await queue.lock();
    while (!wanted_at_rest() && let_go == let_go_) {
      const Duration wait = group_->charge(is_write, bytes, home().reactor().now());
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
