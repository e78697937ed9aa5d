// The machine's clocks and randomness, and a reactor's wake-ups.
#pragma once

#include <atomic>
#include <cstdint>

#include "io/backend.hpp"

namespace tidemark::posix {

Instant monotonic_now() noexcept;
std::int64_t wall_clock_ns() noexcept;
std::uint64_t random_word() noexcept;

// Wakeup: lets other threads and signal handlers end a reactor's sleep on an eventfd.  Who notifies
// writes the eventfd only when the reactor sleeps; a reactor that is awake sees a flag.
class Wakeup {
 public:
  static Result<int> open();                     // the eventfd
  explicit Wakeup(int fd) : fd_(fd) {}           // owns it
  Wakeup(const Wakeup&) = delete;
  ~Wakeup();
  int fd() const noexcept { return fd_; }

  // Any thread, and signal handlers.
  void notify() noexcept;

  // The reactor's thread.  begin_sleep(): false when notified, then do not sleep.  end_sleep()
  // comes before looking at what notifiers left.
  bool begin_sleep() noexcept;
  bool notified() const noexcept { return state_.load(std::memory_order_seq_cst) == State::notified; }
  void end_sleep() noexcept { state_.store(State::awake, std::memory_order_seq_cst); }
  void drain() noexcept;                         // the eventfd was readable

 private:
  enum class State : std::uint32_t { awake, asleep, notified };
  int fd_;
  std::atomic<State> state_{State::awake};
};

}  // namespace tidemark::posix
