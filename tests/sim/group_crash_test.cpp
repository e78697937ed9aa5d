// Groups over several disks through power cuts: all jobs and changes of bitmaps have taken effect, on every disk, or none has;
// who was told that they did finds it so; and no mark is lost, in whatever order the disks are opened again, and when one of
// their stores is gone.
#include <algorithm>

#include "io/file.hpp"
#include "storage/file.hpp"
#include "tests/sim/engine_daemon.hpp"
#include "tests/sim/harness.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t granule = 4096, granules = 96, disk_size = granules * granule;
constexpr std::uint64_t quiet = 32;              // granules at the start that guests leave alone once the group has begun
constexpr std::size_t disks_max = 3;

struct GroupPlan {
  Rule broken = Rule::none;
  bool backs_up = true;                          // else the group has no jobs
  bool target_fails = false;                     // that of the last disk
  bool store_fails = false;                      // some writes to that of the last disk, at some time
  bool loses_store = false;                      // of one of the disks, after the crash
};

using Content = std::vector<std::byte>;

std::string node_of(std::size_t disk) { return "d" + std::to_string(disk); }

Json named(std::size_t disk, const char* name) { return Json::object({{"node", node_of(disk)}, {"name", name}}); }

Json action(const char* type, Json data) { return Json::object({{"type", type}, {"data", std::move(data)}}); }

// What becomes of a disk's bitmaps in the group:
//   cleared, backed   begin anew: by an action, by the success of a backup
//   removed, added, disabled
// All but `added` have the first granule when the group begins.
class Grouped : public Workload, JobEvents {
 public:
  explicit Grouped(GroupPlan plan) : plan_(plan) {}

  Task<> prepare(SimProcess& process) override {
    disks_ = 1 + process.backend().random() % disks_max;
    for (std::size_t disk = 0; disk < disks_; ++disk)
      for (const std::string& path : {path_of(disk), target_of(disk)})
        co_await create_file(process.reactor(), path, disk_size, FilePreallocation::off);
    const auto fill = [&](SimDaemon& daemon) -> Task<> {
      for (std::size_t disk = 0; disk < disks_; ++disk) co_await fill_disk(daemon, disk);
    };
    co_await with_daemon(process, fill);
  }

  Task<> run(SimProcess& process) override {
    process_ = &process;
    const auto body = [&](SimDaemon& daemon) -> Task<> {
      std::vector<std::unique_ptr<Edge>> guests;
      for (std::size_t disk = 0; disk < disks_; ++disk) {
        co_await open(daemon, disk);
        guests.push_back(co_await attach(daemon, disk));
      }
      Json arguments = co_await group(daemon);
      const auto begun = co_await daemon.execute("transaction", std::move(arguments)).result();
      if (!plan_.backs_up || !begun) co_return co_await hear(begun);
      const auto work = [&](TaskGroup& group) -> Task<> {
        for (const auto& guest : guests) group.spawn(write_beside(process, *guest));
        co_await until_over(process, daemon);
        co_await group.join();
      };
      co_await with_group(process.reactor(), work);
      if (told_ == undone_ || (plan_.target_fails && told_)) co_await Error(Errc::corrupt, "the jobs did not end as they had to");
      if (undone_ && !plan_.target_fails && !plan_.store_fails) co_await Error(Errc::corrupt, "the jobs have failed");
    };
    co_await with_daemon(process, body);
  }

  // In any order, alone or with others.
  Task<> recover(SimProcess& process) override {
    const auto chance = [&](std::uint64_t n) { return process.backend().random() % n; };
    std::vector<std::size_t> order(disks_);
    for (std::size_t i = 0; i < disks_; ++i) order[i] = i;
    for (std::size_t i = disks_; i > 1; --i) std::swap(order[i - 1], order[chance(i)]);
    if (plan_.loses_store && !lost_) lost_ = chance(disks_);
    if (lost_) (void)co_await fs::unlink(process.reactor(), path_of(*lost_) + ".tidemark").result();
    while (!order.empty()) {
      const std::size_t together = 1 + chance(order.size());
      const auto open_some = [&](SimDaemon& daemon) -> Task<> {
        for (std::size_t i = 0; i < together; ++i) co_await open(daemon, order[i]);
      };
      co_await with_daemon(process, open_some);
      order.erase(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(together));
    }
  }

  Task<> verify(SimProcess& process) override {
    const auto look = [&](SimDaemon& daemon) -> Task<> {
      std::optional<bool> all;
      for (std::size_t disk = 0; disk < disks_; ++disk) {
        co_await open(daemon, disk);
        if (disk == lost_ || (plan_.store_fails && daemon.graph().find(node_of(disk))->bitmaps().empty())) continue;
        const bool done = co_await check(daemon, disk);
        if (all && *all != done && !lost_) co_await Error(Errc::corrupt, "the group has taken effect on some disks only");
        if (told_ && !done && !lost_) co_await wrong(disk, "a group that was told to have ended well has not taken effect");
        if (undone_ && done) co_await wrong(disk, "a group that was told to have failed has taken effect");
        all = done;
      }
    };
    co_await with_daemon(process, look);
  }

 private:
  void status_changed(const std::string&, JobStatus) override {}
  void completed(const JobInfo& job) override {
    if (process_ && process_->backend().alive()) (job.error ? undone_ : told_) = true;
  }
  void cancelled(const JobInfo&) override {}
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}

  Task<> hear(Result<Json> answer) {
    if (process_->backend().alive()) (answer ? told_ : undone_) = true;
    if (!plan_.store_fails) co_await unwrap(std::move(answer));
  }

  static std::string path_of(std::size_t disk) { return "/" + node_of(disk); }
  static std::string target_of(std::size_t disk) { return "/t" + std::to_string(disk); }
  static Error wrong(std::size_t disk, const std::string& what) { return Error(Errc::corrupt, node_of(disk) + ": " + what); }

  template <class Body>
  Task<> with_daemon(SimProcess& process, const Body& body) {
    Result<> done, ended;
    const auto life = [&](TaskGroup& group) -> Task<> {
      const TrackingListener nobody = [](const std::string&, const TrackingReport&) {};
      SimDaemon daemon(process.reactor(), group, {plan_.broken, 16 * KiB, 192 * KiB}, *this, nobody);
      done = co_await body(daemon).result();
      ended = co_await daemon.end().result();
    };
    co_await with_group(process.reactor(), life);
    co_await unwrap(done);
    if (!plan_.store_fails) co_await unwrap(ended);
  }

  static Task<> add_file(SimDaemon& daemon, std::string node, std::string path) {
    Json arguments = Json::object({{"driver", "file"}, {"node-name", node}, {"filename", path}});
    co_await daemon.execute("blockdev-add", std::move(arguments));
  }
  static Task<> open(SimDaemon& daemon, std::size_t disk) { return add_file(daemon, node_of(disk), path_of(disk)); }

  static Task<std::unique_ptr<Edge>> attach(SimDaemon& daemon, std::size_t disk) {
    const Permissions all{Permissions::consistent_read | Permissions::write, Permissions::all};
    auto attached = Edge::attach(*daemon.graph().find(node_of(disk)), Role::root, all, "a guest");
    co_return co_await unwrap(std::move(attached));
  }

  static Task<> write(Edge& guest, std::uint64_t at, int value, std::uint64_t count = 1) {
    const Content data(count * granule, static_cast<std::byte>(value));
    co_await guest.write(at * granule, Buffers::of_const(data));
  }

  static Task<> fill_disk(SimDaemon& daemon, std::size_t disk) {
    co_await open(daemon, disk);
    const auto guest = co_await attach(daemon, disk);
    co_await write(*guest, 0, 1, granules);
    for (const char* name : {"cleared", "backed", "removed", "disabled"}) {
      Json add = named(disk, name);
      add.set("granularity", static_cast<std::int64_t>(granule));
      add.set("persistent", true);
      co_await daemon.execute("block-dirty-bitmap-add", std::move(add));
    }
    co_await write(*guest, 0, 2);
  }

  Task<Json> group(SimDaemon& daemon) {
    Json actions = Json::array();
    for (std::size_t disk = 0; disk < disks_; ++disk) {
      co_await add_file(daemon, "t" + std::to_string(disk), target_of(disk));
      Json add = named(disk, "added");
      add.set("granularity", static_cast<std::int64_t>(granule));
      add.set("persistent", true);
      actions.push_back(action("block-dirty-bitmap-add", std::move(add)));
      actions.push_back(action("block-dirty-bitmap-clear", named(disk, "cleared")));
      actions.push_back(action("block-dirty-bitmap-remove", named(disk, "removed")));
      actions.push_back(action("block-dirty-bitmap-disable", named(disk, "disabled")));
      if (!plan_.backs_up) continue;
      Json backup = Json::object({{"job-id", "j" + std::to_string(disk)}, {"device", node_of(disk)}, {"bitmap", "backed"}});
      backup.set("target", "t" + std::to_string(disk));
      backup.set("sync", "incremental");
      actions.push_back(action("blockdev-backup", std::move(backup)));
    }
    SimFault fails;
    fails.kind = IoOp::Kind::write;
    fails.path = plan_.target_fails ? target_of(disks_ - 1) : path_of(disks_ - 1) + ".tidemark";
    fails.count = plan_.target_fails ? SimFault::always : 3;
    fails.skip = plan_.target_fails ? 0 : process_->backend().random() % 50;
    if (plan_.target_fails || plan_.store_fails) process_->backend().world().faults().add(fails);
    Json arguments = Json::object({{"actions", std::move(actions)}});
    arguments.set("properties", Json::object({{"completion-mode", "grouped"}}));
    co_return std::move(arguments);
  }

  static Task<> write_beside(SimProcess& process, Edge& guest) {
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t at = quiet + process.backend().random() % (granules - quiet);
      co_await write(guest, at, 3 + i);
      co_await process.reactor().sleep(Duration(process.backend().random() % 2'000'000));
    }
  }

  static Task<> until_over(SimProcess& process, SimDaemon& daemon) {
    for (;;) {
      const Json jobs = co_await daemon.execute("query-jobs");
      if (jobs.as_array().empty()) co_return;
      co_await process.reactor().sleep(Duration(500'000));
    }
  }

  // Whether the group has taken effect on the disk: wholly, or not at all.
  Task<bool> check(SimDaemon& daemon, std::size_t disk) {
    BlockNode& node = *daemon.graph().find(node_of(disk));
    const auto found = [&](const char* name) { return node.bitmaps().find(name); };
    NodeBitmap *cleared = found("cleared"), *backed = found("backed"), *removed = found("removed"), *disabled = found("disabled"),
               *added = found("added");
    if (!cleared || !backed || !disabled) co_await wrong(disk, "a bitmap is gone");
    const auto has_first = [](const NodeBitmap* bitmap) { return bitmap->bits().test(0); };
    // What records in a store that has failed is wholly dirty.
    const auto has_first_still = [&](const NodeBitmap* bitmap) { return has_first(bitmap) && !plan_.store_fails; };
    const bool done = !removed && added && !has_first_still(added) && !has_first_still(cleared) && !disabled->enabled() &&
                      (has_first(backed) != plan_.backs_up || plan_.store_fails);
    const bool undone = removed && has_first(removed) && has_first(cleared) && has_first(backed) && disabled->enabled() &&
                        (!added || added->bits().count() == granules);
    if (!done && !undone) co_await wrong(disk, "the group has taken effect on some bitmaps only");
    Content content(disk_size);
    const auto edge = co_await attach(daemon, disk);
    co_await edge->read(0, Buffers(content));
    for (std::uint64_t at = 1; at < granules; ++at) {
      const auto begin = content.begin() + static_cast<std::ptrdiff_t>(at * granule);
      if (std::all_of(begin, begin + granule, [](std::byte byte) { return byte == std::byte{1}; })) continue;
      for (const NodeBitmap* bitmap : {cleared, backed, removed, added, disabled})
        if (bitmap && bitmap->recording() && !bitmap->bits().test(at * granule))
          co_await wrong(disk, "bitmap '" + bitmap->name() + "' has lost granule " + std::to_string(at));
    }
    co_return done;
  }

  const GroupPlan plan_;
  std::size_t disks_ = 0;
  SimProcess* process_ = nullptr;                // while it runs
  bool told_ = false, undone_ = false;
  std::optional<std::size_t> lost_;
};

CrashPlan crashes(std::uint64_t seeds, std::uint64_t ops_max) {
  CrashPlan plan;
  plan.options.short_file_ppm = 0;               // as of other crash tests of stores
  plan.seeds = seeds;
  plan.ops_max = ops_max;
  plan.fates = 3;
  return plan;
}

MakeWorkload grouped(GroupPlan plan) {
  return [plan] { return std::make_unique<Grouped>(plan); };
}

TEST(GroupCrash, AllHasTakenEffectOrNothingHas) { EXPECT_TRUE(survives_crashes(grouped({}), crashes(5, 1000))); }

TEST(GroupCrash, AGroupThatFailsHasTakenNoEffect) {
  GroupPlan plan;
  plan.target_fails = true;
  EXPECT_TRUE(survives_crashes(grouped(plan), crashes(6, 60)));
}

TEST(GroupCrash, AGroupWithoutJobsIsOneMoment) {
  GroupPlan plan;
  plan.backs_up = false;
  EXPECT_TRUE(survives_crashes(grouped(plan), crashes(6, 60)));
}

TEST(GroupCrash, AStoreThatCannotBeWrittenFailsAllOfTheGroup) {
  GroupPlan plan;
  plan.store_fails = true;
  EXPECT_TRUE(survives_crashes(grouped(plan), crashes(24, 25)));
}

TEST(GroupCrash, AStoreThatIsGoneTakesNoMarkOfOthersWithIt) {
  GroupPlan plan;
  plan.loses_store = true;
  EXPECT_TRUE(survives_crashes(grouped(plan), crashes(8, 80)));
}

// The rule that is broken is found out.
TEST(GroupCrash, ARecordBeforeTheIntentsIsFoundOut) {
  GroupPlan plan;
  plan.broken = Rule::intend_before_record;
  const CrashReport report = try_crashes(grouped(plan), crashes(12, 1000));
  ASSERT_TRUE(report.failure.has_value()) << report.cases << " crashes";
  EXPECT_NE(report.failure->message().find("has taken effect on some disks only"), std::string::npos) << report.failure->message();
}

}  // namespace
}  // namespace tidemark::sim
