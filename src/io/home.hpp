// Home: the reactor that an object lives on, for objects that can be moved to another.
//
// Mutexes, events and the like that are made with an object's Home need no change when it moves: they
// wake their waiters on the reactor of that moment.  It moves only while nothing waits on it and nothing
// of the object is in flight, and only what its reactor's thread does may use it.
#pragma once

#include "io/reactor.hpp"

namespace tidemark {

class Home final : public Executor {
 public:
  Home() = default;                               // nowhere yet
  explicit Home(Reactor& reactor) noexcept : reactor_(&reactor) {}
  Home(const Home&) = delete;

  Reactor& reactor() const noexcept { return *reactor_; }
  void move_to(Reactor& reactor) noexcept { reactor_ = &reactor; }
  void post(std::coroutine_handle<> waiter) override { reactor_->post(waiter); }

 private:
  Reactor* reactor_ = nullptr;
};

}  // namespace tidemark
