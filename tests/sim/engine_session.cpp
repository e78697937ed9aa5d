#include "tests/sim/engine_session.hpp"

#include "task/group.hpp"

namespace tidemark::sim {

Session::Session(SimProcess& process, Machine& machine, const SessionPlan& plan, std::uint64_t seed)
    : process_(process),
      world_(process.backend().world()),
      reactor_(process.reactor()),
      machine_(machine),
      plan_(plan),
      random_(seed),
      job_changed_(reactor_) {}

Session::~Session() = default;

void Session::complain(std::string what) {
  if (!complaint_ && alive()) complaint_ = Error(Errc::corrupt, std::move(what));
}

Task<> Session::run() {
  Result<> lived, ended;
  if (plan_.trace) plan_.trace(plan_.after_crash ? "starts after a crash" : plan_.after_kill ? "starts after a kill" : "starts");
  auto body = [&](TaskGroup& group) -> Task<> {
    const auto told = [this](const std::string& node, const TrackingReport& report) {
      for (MachineDisk& disk : machine_.disks)
        if (disk.plan.node == node && report.kind == TrackingReport::Kind::failed) disk.store_fails = true;
    };
    SimDaemon daemon(reactor_, group, plan_.workings, *this, told);
    daemon_ = &daemon;
    if (plan_.kill_at) group.spawn(kill_later(group.token()));
    lived = co_await live().result();
    for (Guest& guest : guests_) guest.edge.reset();
    ended = co_await daemon.end().result();
    daemon_ = nullptr;
  };
  co_await with_group(reactor_, body);
  guests_.clear();
  if (complaint_) co_await *complaint_;
  if (!alive()) co_return;
  co_await unwrap(lived);
  ended_well_ = ended.ok();
  for (MachineDisk& disk : machine_.disks) {
    if (ended && !disk.may_fail) disk.content.all_durable();     // what failed once does so in silence when it is closed
    std::erase_if(disk.bitmaps, [](const auto& entry) { return !entry.second.persistent; });
    if (!ended && !disk.may_fail && !machine_.targets_fail && !machine_.stores_fail) co_await unwrap(ended);
    if (ended && !machine_.stores_fail) co_await unwrap(check_stored(disk));
  }
  if (plan_.finish) co_await check_nothing_left();
}

Task<> Session::kill_later(CancelToken token) {
  const Result<> slept = co_await reactor_.sleep(std::chrono::microseconds(plan_.kill_at), token).result();
  if (slept && !token.requested()) process_.backend().kill();
}

Task<> Session::live() {
  co_await open_disks();
  co_await check_after_start();
  if (plan_.work) co_await work();
  if (plan_.finish) co_await finish();
}

Task<> Session::work() {
  auto body = [this](TaskGroup& group) -> Task<> {
    for (Guest& each : guests_) {
      group.spawn(guest(each));
      group.spawn(guest(each));
    }
    auto operate = [this](TaskGroup& operators) -> Task<> {
      operators.spawn(manage_bitmaps());
      operators.spawn(manage_backups());
      co_await operators.join();
    };
    const Result<> operated = co_await with_group(reactor_, operate).result();
    stop_guests_ = true;
    co_await unwrap(operated);
    co_await group.join();
  };
  co_await with_group(reactor_, body);
}

Task<> Session::open_disks() {
  for (MachineDisk& disk : machine_.disks) {             // before the first of them can end this session
    disk.store_failed = std::exchange(disk.store_fails, machine_.stores_fail) || disk.store_failed;
    // It cannot be told what a disk holds that could not be flushed at the end: of an opening that failed, too.
    const bool failed = std::exchange(disk.may_have_failed, false) || disk.may_fail;
    const bool not_ended_well = disk.store_failed || plan_.after_kill || failed;
    disk.tracking_ended = disk.tracking_ended || !disk.lasts(plan_.after_crash, not_ended_well);
  }
  for (MachineDisk& disk : machine_.disks) {
    Guest& guest = guests_.emplace_back(reactor_, disk);
    co_await open_disk(guest);
  }
}

Task<> Session::open_disk(Guest& guest) {
  const DiskPlan& plan = guest.disk.plan;
  Json file = Json::object({{"driver", "file"}, {"filename", plan.path}});
  Json tracking = Json::object({{"mode", plan.tracking}});
  Json node = Json::object({{"driver", plan.format}, {"node-name", plan.node}, {"file", std::move(file)},
                            {"discard", random_.chance(1, 2) ? "unmap" : "ignore"}, {"tracking", std::move(tracking)}});
  if (plan.format == "qcow2") node.set("refcount-cache-size", 4096);
  // A disk does not open without what its store has.
  co_await must_in_time("blockdev-add", std::move(node), guest.disk.may_fail || machine_.stores_fail);
  BlockNode* opened = co_await unwrap(daemon_->graph().lookup(plan.node));
  const Permissions all{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
  guest.edge = co_await unwrap(Edge::attach(*opened, Role::root, all, "a guest"));
}

Task<> Session::dally(std::uint64_t most) { co_await reactor_.sleep(std::chrono::microseconds(random_.below(most + 1))); }

Task<Result<Json>> Session::execute(std::string command, Json arguments) {
  const std::string asked = plan_.trace ? command + " " + to_text(arguments) : "";
  if (plan_.trace) plan_.trace(asked);
  Task<Json> task = daemon_->execute(std::move(command), std::move(arguments));
  Result<Json> answer = co_await std::move(task).result();
  if (plan_.trace) plan_.trace(asked + ": " + (answer ? "done" : answer.error().message()));
  if (!answer && !alive()) co_await answer.error();
  co_return answer;
}

Task<> Session::must(std::string command, Json arguments) {
  const std::string asked = command + " " + to_text(arguments);
  const Result<Json> answer = co_await execute(std::move(command), std::move(arguments));
  if (answer) co_return;
  complain(asked + " failed: " + answer.error().message());
  co_await answer.error();
}

Task<> Session::must_in_time(std::string command, Json arguments, bool may_fail) {
  for (int tries = 1; may_fail && tries < 10; ++tries) {
    Json again = arguments;
    const Result<Json> done = co_await execute(command, std::move(again));
    if (done) co_return;
  }
  co_await must(std::move(command), std::move(arguments));
}

// What may fail without anybody's fault.
Result<> Session::tolerate(const Result<Json>& answer, const MachineDisk& disk) {
  if (answer || disk.may_fail || machine_.stores_fail || machine_.targets_fail) return {};
  const std::string& message = answer.error().message();
  for (const std::string_view fine : {"in use", "busy", "different sizes"})
    if (message.find(fine) != message.npos) return {};
  complain("a command failed: " + message);
  return answer.error();
}

}  // namespace tidemark::sim
