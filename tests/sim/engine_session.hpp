// A run of the daemon on a simulated machine: from its start, over what guests and operators do to it, to
// its end, whatever that is.
//
// Guests write; an operator does to bitmaps what can be done; another takes backups, tidemark's way and QEMU's.
// All of them tell the Machine what they do before they do it and what they were answered, and complain of
// what the engine must not answer.
#pragma once

#include <list>
#include <set>

#include "base/random.hpp"
#include "task/range_lock.hpp"
#include "tests/sim/engine_daemon.hpp"
#include "tests/sim/engine_model.hpp"
#include "io/sim/process.hpp"

namespace tidemark::sim {

struct SessionPlan {
  int steps = 12;                                  // of each operator
  std::uint64_t kill_at = 0;                       // microseconds; 0: never
  bool after_crash = false;                        // of the machine: what is seen is durable
  bool after_kill = false;
  bool work = true;
  std::uint64_t cancels = 6;                       // one backup of so many
  bool finish = false;                             // take chains on, compare all backups, leave nothing behind
  Workings workings{};
  std::function<void(std::string_view)> trace{};
};

class Session final : JobEvents {
 public:
  Session(SimProcess& process, Machine& machine, const SessionPlan& plan, std::uint64_t seed);
  Session(const Session&) = delete;
  ~Session();

  // Fails when the engine broke a promise, or what nothing should fail did.  The end of the process is no failure.
  Task<> run();
  // It closed its disks: what was written is durable.
  bool ended_well() const noexcept { return ended_well_; }

 private:
  struct Guest {
    Guest(Reactor& reactor, MachineDisk& d) : disk(d), lock(reactor) {}
    MachineDisk& disk;
    std::unique_ptr<Edge> edge{};
    RangeLock lock;                                // of sectors: a guest does not write one twice at once
  };
  // A job that somebody waits for.
  struct Watched {
    std::size_t disk = 0;
    std::string path{};                            // of its target
    std::string format{};
    bool top_only = false;
    unsigned command = 0;                          // that started it
    std::uint64_t writes_then = 0;
    std::string bitmap{};                          // that it takes bits from
    bool always = false;
    bool may_overflow = false;                     // its staging, which fails it
    PointPtr point{};                              // since it began
    bool began = false, over = false, cancelled = false;
    std::optional<std::string> error{};
    bool well() const noexcept { return over && !cancelled && !error; }
  };
  using Action = std::pair<std::string, Json>;

  // engine_session.cpp
  Task<> live();
  Task<> work();
  Task<> kill_later(CancelToken token);
  Task<> open_disks();
  Task<> open_disk(Guest& guest);
  bool alive() noexcept { return process_.backend().alive(); }
  void complain(std::string what);
  Task<> dally(std::uint64_t most = 300);
  Task<> must(std::string command, Json arguments);           // complains when it fails
  Task<> must_in_time(std::string command, Json arguments, bool may_fail);   // ... again and again, for faults pass
  Task<Result<Json>> execute(std::string command, Json arguments);
  Result<> tolerate(const Result<Json>& answer, const MachineDisk& disk);

  // engine_guest.cpp
  Task<> guest(Guest& guest);
  Task<> guest_step(Guest& guest);
  void tell(const Guest& guest, std::string_view what, Range range, Stamp stamp) const;
  Task<> flush(Guest& guest);
  Task<> change(Guest& guest, Range range, Stamp stamp, int how);
  Task<> look(Guest& guest, std::uint64_t write, Range range);
  Task<> resize(Guest& guest);
  Task<Stamps> read(Edge& edge);

  // engine_bitmaps.cpp
  Task<> manage_bitmaps();
  Task<> manage_one(MachineDisk& disk);
  Task<> add(MachineDisk& disk, std::string name, bool persistent, std::uint32_t granularity);
  Task<> remove(MachineDisk& disk, std::string name);
  Task<> clear(MachineDisk& disk, std::string name);
  Task<> restart(MachineDisk& disk, std::string name);
  Task<> merge(MachineDisk& disk, std::string from, std::string to);
  Task<> swap(MachineDisk& disk, std::string name);
  struct Change {
    MachineDisk* disk;
    std::string name;
    BitmapState after;
    bool anew;                                     // it is about the moment of the change, too
  };
  Task<> carry_out(std::vector<Change> changes, std::vector<Action> actions);
  Change new_bitmap(MachineDisk& disk, const std::string& name, bool persistent, std::uint32_t granularity);
  static Change cleared(MachineDisk& disk, const std::string& name);
  static Action add_action(const MachineDisk& disk, const std::string& name);
  static Json merge_arguments(const MachineDisk& disk, const std::string& from, const std::string& to);
  static Json transaction_of(std::vector<Action> actions, bool grouped);
  bool taken(const MachineDisk& disk, const std::string& bitmap) const;

  // engine_jobs.cpp
  void status_changed(const std::string& id, JobStatus status) override;
  void completed(const JobInfo& job) override;
  void cancelled(const JobInfo& job) override;
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}
  void over(const JobInfo& job, bool cancelled);
  void begun(Watched& job);
  std::uint64_t writes_under(unsigned command) const;
  Task<> wait_for(std::vector<std::string> jobs);
  Task<bool> create(Json options);
  Task<bool> make_target(std::uint64_t size, std::string path, std::string format, std::string backing);
  Task<bool> add_target(std::string path, std::string format, std::string node, bool open_backing);
  Task<> drop_files(std::vector<std::string> paths);
  Task<> drop_file(std::string path);

  // engine_backups.cpp
  struct Order {                                   // of one disk's backup
    std::size_t disk = 0;
    std::string path{}, format = "qcow2", node{}, job{};
    std::string sync{}, bitmap{}, mode{}, new_bitmap{};
    bool compress = false, opened = false;
  };
  Task<> manage_backups();
  std::vector<std::size_t> some_disks();
  Task<> back_up_own(std::vector<std::size_t> disks);
  Task<> publish(std::vector<Order>& orders, bool well);
  Task<> back_up_incremental(std::vector<std::size_t> disks, bool grouped);
  Task<> take_on(const Order& order, bool started);
  Task<> back_up_alone(std::size_t disk);
  Task<> drop_chain(MachineDisk& disk, Chain& chain);
  Task<bool> begin_order(Order& order, Chain* chain, bool open_backing);
  void set_staging(Json& arguments, Watched& job);
  Json backup_arguments(const Order& order);
  void watch(const Order& order, unsigned command, const std::string& bitmap);
  Task<bool> start(std::vector<Order>& orders, std::vector<Change> changes, std::vector<Action> actions, bool grouped);
  Task<> see_through(std::vector<Order>& orders);
  Task<> close_targets(std::vector<Order>& orders);
  bool all_well(const std::vector<Order>& orders) const;
  void forget_jobs(const std::vector<Order>& orders);

  // engine_check.cpp
  Task<> check_after_start();
  Task<> check_content(Guest& guest);
  Result<> check_bitmaps(MachineDisk& disk, BlockNode& node);
  Result<> check_stored(const MachineDisk& disk);
  Task<> remove_inconsistent(MachineDisk& disk, BlockNode& node);
  Task<> clean_up_chain(MachineDisk& disk);
  bool is_under_way(const std::string& target) const;
  bool present(const MachineDisk& disk, const std::string& bitmap);
  Task<> compare(const Backup& backup);
  Result<> compare(const Backup& backup, const Stamps& seen) const;
  Task<> compare_chain(std::size_t disk, const Chain& chain);
  Task<> finish();
  Task<> check_nothing_left();

  SimProcess& process_;
  SimWorld& world_;
  Reactor& reactor_;
  Machine& machine_;
  const SessionPlan plan_;
  Prng random_;
  SimDaemon* daemon_ = nullptr;
  std::list<Guest> guests_;
  std::map<std::string, Watched> jobs_;
  std::set<std::pair<std::string, std::string>> taken_;       // node, bitmap: by a command under way
  Event job_changed_;
  unsigned commands_ = 0;
  bool stop_guests_ = false, ended_well_ = false;
  std::optional<Error> complaint_;
};

Json file_at(const std::string& path);             // a node on a file

}  // namespace tidemark::sim
