// IoBackend: the one door to the operating system.  Time, I/O, threads and randomness enter the
// engine here and nowhere else, so that the whole engine runs by a seed on the simulation.
//
// Implementations: uring/ (Linux io_uring), threads/ (a pool of blocking calls), sim/ (seeded).
// One backend belongs to one Reactor and is called on its thread, wake() excepted.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "io/op.hpp"

namespace tidemark {

using Duration = std::chrono::nanoseconds;
using Instant = std::chrono::nanoseconds;            // since an arbitrary start; never goes back

class IoBackend {
 public:
  virtual ~IoBackend() = default;

  virtual std::string_view name() const noexcept = 0;   // "io_uring", "threads", "simulation"

  virtual Instant now() noexcept = 0;
  // Nanoseconds since 1970, for time stamps that people and files see.
  virtual std::int64_t wall_clock_ns() noexcept = 0;
  virtual std::uint64_t random() noexcept = 0;          // unpredictable, or the seed's

  // Completes `op` at once if that cannot block (page cache hit, bytes in the socket's buffer):
  // true, with op.result set.  False: nothing has happened; submit() it.
  virtual bool try_now(IoOp& op) noexcept = 0;

  // Starts `op`; it completes through wait(), never inline.  Submissions are batched until then.
  virtual void submit(IoOp& op) = 0;

  // Asks that a submitted op end early; it still completes through wait(), with -ECANCELED or not.
  virtual void cancel(IoOp& op) = 0;

  // Waits until an op has completed, `deadline` has come or wake() was called, and appends what has
  // completed.  A deadline in the past polls.  A simulation jumps its clock instead of waiting.
  virtual void wait(Instant deadline, std::vector<IoOp*>& completed) = 0;

  // A descriptor changes to another backend, with nothing in flight: what the one knows of it is told to
  // the other, each on its own thread.
  virtual std::uint64_t forget(Handle handle) noexcept {
    (void)handle;
    return 0;
  }
  virtual void learn(Handle handle, std::uint64_t known) noexcept { (void)handle, (void)known; }

  // Ends a wait() under way or the next one.  Any thread, and signal handlers.
  virtual void wake() noexcept = 0;
};

inline constexpr Instant no_deadline = Instant::max();

}  // namespace tidemark
