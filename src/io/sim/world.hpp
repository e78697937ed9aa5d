// SimWorld: a simulated machine: its clock, disk, sockets and luck.  It outlives its processes.
//
// The same seed, options and program give the same run, operation by operation (trace_hash()).
//
// Processes.  A SimBackend is one process's way to the machine; SimProcess is a backend with its
// Reactor.  All run on the caller's thread.  Code takes no time; when a reactor waits, the world picks
// by seed which process that has something to do goes on, and when none has, moves the clock to
// the next event.  When nothing can ever happen, the world says so on stderr and aborts: that is a
// deadlock in what is tested.  So it does when a dead process does not come to an end.
//
// Operations take effect at one moment, when they complete, in an order that chance decides: of those
// on their way together any may overtake any.  Reads, writes, recv and send may be short, and may
// complete inline (try_now).  SimFaults makes them fail, hang, be slow or crash the machine.
//
// The crash model.  crash() is a power cut:
//  * Contents: see SimFile.  In short: what a completed sync covers (the writes that had completed
//    when it started) and completed durable writes are there; of the rest each sector independently
//    is old or new, and the size is one that the file had.
//  * Names: see SimNames.  In short: what a completed sync_dir covers is there; of the rest each
//    change happened or did not; a rename is never half.  A new file whose directory was not synced
//    may be gone though the file itself was synced.
//  * What is on its way has started and is not promised: any part of it may be there.
//  * A failed sync promises nothing, and what it forgot no later sync makes durable, though readers
//    go on seeing it until a crash.  A failed write (EIO) may have changed any leading part.
//  * Locks, sockets, O_TMPFILE files and open handles are gone.
// After it the disk is what a restarted machine finds: whatever is there then is durable.
//
// The processes that ran are dead: operations under way, and all later ones, fail with EIO, except
// that close and shutdown succeed and work still runs, so that their coroutines unwind in the normal
// way and leak nothing, without an effect on the disk.  A new SimBackend is a process of the
// restarted machine.  SimBackend::kill() is kill -9: that process dies the same way, but what it
// wrote is in the page cache, where others and a restarted one see it.
//
// Not modelled: readers that see half a write, a page cache that forgets what could not be written
// while the machine runs, bits that rot, writes that go astray, a network between machines.
#pragma once

#include "io/sim/faults.hpp"
#include "io/sim/network.hpp"

namespace tidemark {

class SimBackend;

// What a handle of a process stands for: one of these, and its name for people and faults.
struct SimTarget {
  std::string path;
  std::shared_ptr<SimOpenFile> file;
  std::shared_ptr<SimSocket> socket;
  std::shared_ptr<SimListener> listener;
};

class SimWorld {
 public:
  explicit SimWorld(std::uint64_t seed, SimOptions options = {});
  SimWorld(const SimWorld&) = delete;
  ~SimWorld();                                    // its backends are gone

  std::uint64_t seed() const noexcept { return seed_; }
  SimOptions& options() noexcept { return options_; }     // chances may be changed at any time
  SimDisk& disk() noexcept { return disk_; }
  SimFaults& faults() noexcept { return faults_; }
  Instant now() const noexcept { return clock_.now(); }

  void crash();
  // Crashes when the `n`th operation from now, of any process, has started; 1 is the next, 0: none.
  // Counted are those that may change what a crash leaves: not reads, queries, locks, sockets, close.
  void crash_after_ops(std::uint64_t n) noexcept { crash_in_ = n; }
  std::uint64_t ops() const noexcept { return ops_; }      // of those, so far
  std::uint64_t crashes() const noexcept { return crashes_; }

  // A machine as this one would be found, restarted, after a power cut at this moment; this one goes on as if
  // nothing had been asked.  `fate` varies what the crash leaves, and chance in the other world.
  std::unique_ptr<SimWorld> after_crash(std::uint64_t fate) const;
  // Called when an operation that ops() counts has started.  It may look at the world, not change it.
  void watch_ops(std::function<void()> watcher) { watcher_ = std::move(watcher); }

  void release_hung();                            // what a fault has held up goes on

  std::uint64_t trace_hash() const noexcept { return trace_hash_; }
  // Each start and end of an operation as a line of text, from now on.
  void trace_to(std::function<void(std::string_view)> sink) { trace_ = std::move(sink); }

 private:
  friend class SimBackend;

  // An operation on its way.
  struct Flight {
    SimBackend* backend;
    IoOp* op;
    SimTarget target;
    SimStart start;
    Duration delay{0};
    enum class State : std::uint8_t { due, blocked, hung } state = State::due;
    bool cancelled = false;                       // asked to end while it was due
  };

  void attach(SimBackend& backend);
  void detach(SimBackend& backend);
  void launch(Flight flight);                     // judges it, and crashes if that is its lot
  bool launch_now(Flight flight);                 // false: it is to be launched
  bool count(const IoOp& op);                     // true when the machine is to crash at it
  void schedule(std::uint64_t id);
  void attempt(std::uint64_t id);                 // performs it, unless it blocks
  void end(std::uint64_t id, std::int64_t result);
  void end_all(const SimBackend& backend);        // -EIO
  void cancel(std::uint64_t id);
  void interrupt(SimBackend* only);               // any part of what is on its way takes effect
  void interrupt(const SimWorld& other, const SimDisk::Nodes& nodes);      // ... of what is on its way there
  void let_run(SimBackend& waiting);
  SimBackend* next_to_run(SimBackend& waiting);   // null: nothing can run now; time has moved
  [[noreturn]] void report(const SimBackend& waiting, std::string_view what) const;
  std::string describe(const Flight& flight) const;
  void trace(const Flight& flight, std::string_view event, std::int64_t result);

  std::uint64_t seed_;
  SimOptions options_;
  Prng luck_, fates_, numbers_;                   // of the run, of crashes, given to processes
  SimClock clock_;
  SimDisk disk_;
  SimNetwork network_;
  SimFaults faults_;
  std::map<std::uint64_t, Flight> flights_;       // by id, in the order of their start
  std::uint64_t last_id_ = 0;
  std::vector<SimBackend*> backends_;
  std::uint64_t crash_in_ = 0, ops_ = 0, crashes_ = 0;
  std::uint64_t trace_hash_ = 0, attached_ = 0;
  std::function<void(std::string_view)> trace_;
  std::function<void()> watcher_;
};

}  // namespace tidemark
