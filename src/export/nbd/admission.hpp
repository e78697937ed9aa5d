// NbdAdmission: one client's way from its accept to one of the server's slots.
//
// Who haggles has no slot: the clients that are served are limited, not those that say nothing.  A client asks
// for a slot when it has said which export it wants.  On the server's thread.
#pragma once

#include "io/backend.hpp"
#include "task/sync.hpp"

namespace tidemark {

class NbdAdmission {
 public:
  // `left_hall` is notified whenever a client is no longer waiting, or gone.
  NbdAdmission(Semaphore& slots, Event& left_hall) : slots_(slots), left_hall_(left_hall) {}
  NbdAdmission(const NbdAdmission&) = delete;
  ~NbdAdmission() {
    if (stage_ == Stage::admitted) slots_.release();
    left_hall_.notify_all();
  }

  // It has said something.
  void heard(Instant when) noexcept { heard_ = when; }
  Instant last_heard() const noexcept { return heard_; }

  // There is one for it at this moment.
  bool at_once() noexcept {
    if (!slots_.try_acquire()) return false;
    stage_ = Stage::admitted;
    return true;
  }
  Task<> wait(CancelToken token) {
    stage_ = Stage::waiting;
    const Result<> granted = co_await slots_.acquire(1, token).result();
    stage_ = granted ? Stage::admitted : Stage::haggling;
    co_await unwrap(granted);
  }
  // What it asked for it cannot have.
  void give_back() noexcept {
    slots_.release();
    stage_ = Stage::haggling;
    left_hall_.notify_all();
  }
  void enter() noexcept { left_hall_.notify_all(); }

  bool haggling() const noexcept { return stage_ == Stage::haggling; }
  bool waiting() const noexcept { return stage_ == Stage::waiting; }
  bool admitted() const noexcept { return stage_ == Stage::admitted; }

 private:
  enum class Stage : std::uint8_t { haggling, waiting, admitted };
  Semaphore& slots_;
  Event& left_hall_;
  Stage stage_ = Stage::haggling;
  Instant heard_{};
};

}  // namespace tidemark
