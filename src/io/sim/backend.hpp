// SimBackend: one process on a SimWorld.  The world says what dying means.
//
// Handles are never used twice, so that one that was closed is always EBADF.  What still waits on a
// socket or listener when its handle is closed ends.
#pragma once

#include <atomic>

#include "io/sim/world.hpp"

namespace tidemark {

class SimBackend final : public IoBackend {
 public:
  explicit SimBackend(SimWorld& world, std::string name = "process");
  SimBackend(const SimBackend&) = delete;
  ~SimBackend() override;                         // nothing is in flight (asserted)

  SimWorld& world() noexcept { return world_; }
  const std::string& process_name() const noexcept { return name_; }
  bool alive() const noexcept { return alive_; }
  void kill();
  // Lets other processes' waits run this one: `turn` runs one turn of its reactor.
  void run_with(std::function<void()> turn) { turn_ = std::move(turn); }
  // While one lives, its process is on the stack and goes on by itself only.
  class OnStack {
   public:
    explicit OnStack(SimBackend& backend) : backend_(backend) {
      TM_ASSERT(!std::exchange(backend.on_stack_, true));
    }
    OnStack(const OnStack&) = delete;
    ~OnStack() { backend_.on_stack_ = false; }

   private:
    SimBackend& backend_;
  };

  std::string_view name() const noexcept override { return "simulation"; }
  Instant now() noexcept override { return world_.now(); }
  std::int64_t wall_clock_ns() noexcept override { return world_.clock_.wall_ns(); }
  std::uint64_t random() noexcept override { return world_.numbers_(); }
  bool try_now(IoOp& op) noexcept override;
  void submit(IoOp& op) override;
  void cancel(IoOp& op) override;
  void wait(Instant deadline, std::vector<IoOp*>& completed) override;
  void wake() noexcept override { woken_ = true; }

 private:
  friend class SimWorld;
  SimWorld::Flight flight_of(IoOp& op);
  std::int64_t perform(SimWorld::Flight& flight, std::uint64_t id);
  std::int64_t perform_on_socket(SimWorld::Flight& flight, std::uint64_t id);
  std::int64_t keep(SimTarget target);                  // a new handle
  std::int64_t close(Handle handle);
  void answer_dead(IoOp& op);
  void die();
  bool runnable() const noexcept {
    return !completed_.empty() || woken_ || deadline_ <= world_.clock_.now();
  }

  SimWorld& world_;
  std::string name_;
  std::uint64_t number_ = 0;                      // the world's, for the trace
  bool alive_ = true;
  bool on_stack_ = false, given_turn_ = false;
  std::uint64_t waits_dead_ = 0;
  std::atomic<bool> woken_ = false;
  std::map<Handle, SimTarget> handles_;
  std::int32_t last_handle_ = 2;
  std::vector<IoOp*> completed_;
  Instant deadline_ = Instant::min();             // of the last wait
  std::function<void()> turn_;
};

}  // namespace tidemark
