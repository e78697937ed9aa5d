// WorkerPool: threads that run perform_blocking() for one reactor.
//
// submit(), flush(), cancel() and take() are the reactor's thread's.  Threads start when there is
// work that none of them is free for, up to a maximum, and end with the pool.  `work` operations
// burn CPU: no more of them run at once than there are processors, so that I/O need not wait.
//
// Writes that take turns run one at a time for each file: the kernel lets one in, and processors that
// spin until it is their turn are lost to guests.  Of all else that is asked of a file a part runs at a time: one that hangs
// does not take the workers of all.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "io/posix/host.hpp"

namespace tidemark::posix {

class WorkerPool {
 public:
  WorkerPool(Wakeup& wakeup, unsigned workers_max);
  WorkerPool(const WorkerPool&) = delete;
  ~WorkerPool();                                 // nothing is in flight

  // Queued until flush().
  void submit(IoOp& op, bool takes_turns = false) noexcept;
  void flush();

  // True when the op had not begun: it is the caller's again.  Else it ends in its own time.
  bool cancel(IoOp& op) noexcept;

  // Appends what is done.  The wakeup is notified when there is something.
  void take(std::vector<IoOp*>& completed);

  // From now on; those that are at work go on.  The reactor's thread's, as all of these.
  void set_workers_max(unsigned workers_max);

  bool idle() const noexcept { return in_flight_ == 0; }
  // There is work for every processor.
  bool wants_all_processors() const noexcept { return work_in_flight_ >= work_max_; }

 private:
  struct Queue {                                 // FIFO through IoOp::next
    IoOp* first = nullptr;
    IoOp* last = nullptr;
    bool empty() const { return !first; }
    void push(IoOp& op);
    IoOp* pop();
    bool remove(IoOp& op);
    void append(Queue& other);
  };

  struct Lane {                                  // of a file: its writes that take turns, or all else
    unsigned running = 0;
    Queue waiting;
  };

  void run();
  void has_ended(const IoOp& op) noexcept;
  IoOp* next_op();                               // under mutex_
  IoOp* next_io();                               // under mutex_
  void done(IoOp& op);                           // under mutex_
  Lane& lane_of(const IoOp& op);                 // under mutex_
  void leave_lane(IoOp& op);                     // under mutex_; another one gets its place
  bool runnable() const;
  bool start_worker();                           // under mutex_
  bool want_another();                           // under mutex_; true: notify one

  Wakeup& wakeup_;
  const unsigned work_max_;
  std::uint64_t in_flight_ = 0, work_in_flight_ = 0;             // the reactor's
  Queue fresh_io_, fresh_work_;                  // the reactor's, not yet flushed

  std::mutex mutex_;
  std::condition_variable ready_;
  unsigned workers_max_;                         // that run at a time
  Queue io_, work_;
  std::unordered_map<std::uint64_t, Lane> lanes_;
  std::vector<IoOp*> done_;
  std::vector<std::thread> workers_;
  unsigned free_ = 0;                            // workers that wait
  unsigned running_ = 0;                         // that run something
  unsigned working_ = 0;                         // that run a `work`
  bool ending_ = false;
};

}  // namespace tidemark::posix
