#include "tests/sim/engine_run.hpp"

#include <cerrno>

namespace tidemark::sim {
namespace {

SimOptions options_of(Prng& random) {
  SimOptions options;
  // A write that stops within a table entry would tear the entry, whatever the writer does; Linux stops at pages.
  options.short_file_ppm = 0;
  options.names = random.chance(1, 2) ? SimOptions::Names::posix : SimOptions::Names::ordered;
  return options;
}

void heal(SimWorld& world, Machine& machine) {
  world.faults().clear();
  machine.targets_fail = machine.stores_fail = false;
  for (MachineDisk& disk : machine.disks) disk.may_have_failed = std::exchange(disk.may_fail, false);
}

SimFault fault_of(std::string path, Prng& random) {
  static constexpr IoOp::Kind kinds[] = {IoOp::Kind::write, IoOp::Kind::write, IoOp::Kind::read, IoOp::Kind::sync,
                                         IoOp::Kind::allocate};
  SimFault fault;
  fault.path = std::move(path);
  fault.kind = kinds[random.below(std::size(kinds))];
  fault.skip = random.below(80);
  fault.count = 1 + random.below(4);
  fault.os_errno = random.chance(1, 2) ? EIO : ENOSPC;
  return fault;
}

class Life {
 public:
  Life(const LifeCase& only, const LifePlan& plan, LifeCase& under_way)
      : plan_(plan), only_(only), under_way_(under_way), random_(only.seed), world_(only.seed, options_of(random_)) {
    under_way_ = {only.seed, 0, 0};
  }

  LifeReport run() {
    Result<Machine> made = make_machine(world_, random_);
    if (!made) return failed(made.error());
    machine_ = *std::move(made);
    world_.disk().sync_all();
    next_ = 1 + random_.below(2 * plan_.gap);
    if (plan_.trace) trace_ = [this](std::string_view line) { if (!report_.failure) plan_.trace(line); };
    world_.trace_to(trace_);
    world_.watch_ops([this] { look_at_op(); });
    for (int i = 0; i < plan_.sessions && !report_.failure; ++i) live_session();
    world_.watch_ops(nullptr);
    if (!report_.failure) end_well();
    report_.ops = world_.ops();
    return std::move(report_);
  }

 private:
  LifeReport failed(const Error& error) {
    report_.failure = error;
    return std::move(report_);
  }

  void live_session() {
    SessionPlan plan;
    plan.steps = plan_.steps;
    plan.cancels = plan_.cancels;
    plan.workings = plan_.workings;
    plan.trace = trace_;
    plan.after_crash = crashed_;
    plan.after_kill = killed_;
    if (crashed_) boot(world_, world_.crashes());
    Prng meanwhile(only_.seed ^ world_.ops());
    if (stored_ && meanwhile.chance(1, 3)) ruin_stores();
    if (meanwhile.chance(1, 4)) visit(world_, machine_, stored_, meanwhile);
    if (report_.failure) return;
    const bool must_crash = plan_.faults && break_something();
    const bool stores_failed = machine_.stores_fail;
    const std::uint64_t end = random_.below(4);
    if (end == 0) plan.kill_at = 500 + random_.below(30'000);
    if (end == 1) world_.crash_after_ops(20 + random_.below(600));
    const std::uint64_t crashes = world_.crashes();
    SimProcess process(world_, "session");
    Session session(process, machine_, plan, random_());
    const Result<> lived = process.run(session.run());
    world_.crash_after_ops(0);
    heal(world_, machine_);
    if (must_crash && world_.crashes() == crashes) world_.crash();
    crashed_ = world_.crashes() != crashes;
    killed_ = !crashed_ && !session.ended_well();
    stored_ = session.ended_well() && !crashed_ && !stores_failed;
    if (!lived && !report_.failure) report_.failure = lived.error();
  }

  // What qcow2 images were closed with is in them, too.
  void ruin_stores() {
    for (const MachineDisk& disk : machine_.disks) {
      const std::string store = disk.plan.path + ".tidemark";
      if (disk.plan.format == "qcow2" && world_.disk().exists(store)) world_.disk().import_file(store, {});
    }
    world_.disk().sync_all();
  }

  // True when what is visible afterwards may be other than what will ever be durable: Linux forgets what it could
  // not write, so only a crash tells.
  bool break_something() {
    SimFault fault;
    switch (random_.below(7)) {
      case 0:
        machine_.targets_fail = true;
        world_.faults().add(fault_of("/b/", random_));
        return false;
      case 1: {
        MachineDisk& disk = machine_.disks[random_.below(machine_.disks.size())];
        disk.may_fail = machine_.stores_fail = true;
        world_.faults().add(fault_of(disk.plan.path, random_));
        return true;
      }
      case 2:
        machine_.stores_fail = true;
        world_.faults().add(fault_of(".tidemark", random_));
        return false;
      case 3:
        machine_.targets_fail = true;
        world_.faults().add(fault_of(scratch, random_));
        return false;
      case 4:
        fault.action = SimFault::Action::delay;
        fault.path = random_.chance(1, 2) ? "/b/" : "/d/";
        fault.delay = std::chrono::microseconds(random_.below(50'000));
        fault.count = 20;
        world_.faults().add(fault);
        return false;
      default: return false;
    }
  }

  void end_well() {
    if (crashed_) boot(world_, world_.crashes());
    SessionPlan plan;
    plan.workings = plan_.workings;
    plan.trace = trace_;
    plan.after_crash = crashed_;
    plan.after_kill = killed_;
    plan.work = false;
    plan.finish = true;
    SimProcess process(world_, "last");
    Session session(process, machine_, plan, random_());
    const Result<> lived = process.run(session.run());
    if (!lived) report_.failure = lived.error();
  }

  void look_at_op() {
    if (report_.failure || world_.ops() < next_) return;
    const std::uint64_t op = world_.ops();
    next_ = op + 1 + random_.below(2 * plan_.gap);
    if (only_.op != 0) {
      if (only_.op == op) crash_at(op, only_.fate);
      return;
    }
    ++report_.places;
    for (std::uint64_t fate = 1; fate <= plan_.fates && !report_.failure; ++fate) crash_at(op, fate);
  }

  // A copy of the machine, and of what is known of it.
  void crash_at(std::uint64_t op, std::uint64_t fate) {
    const std::unique_ptr<SimWorld> left = world_.after_crash(fate);
    Machine machine = machine_;
    heal(*left, machine);
    if (trace_) trace_("a power cut");
    left->trace_to(trace_);
    Prng random(only_.seed ^ op ^ (fate << 32));
    under_way_ = {only_.seed, op, fate};
    if (random.chance(1, 4)) visit(*left, machine, false, random);
    if (random.chance(1, 3)) {
      left->crash_after_ops(1 + random.below(30));
      restart(*left, machine, random);
      left->crash_after_ops(0);
      report_.crashes += left->crashes();
    }
    ++report_.crashes;
    if (!report_.failure) restart(*left, machine, random);
    if (!report_.failure) under_way_ = {only_.seed, 0, 0};
  }

  void visit(SimWorld& world, Machine& machine, bool closed, Prng& random) {
    const Result<> visited = visit_images(world, machine, closed, random);
    if (!visited && !report_.failure) report_.failure = visited.error();
  }

  void restart(SimWorld& world, Machine& machine, Prng& random) {
    boot(world, random());
    SessionPlan plan;
    plan.workings = plan_.workings;
    plan.trace = trace_;
    plan.after_crash = true;
    plan.work = false;
    plan.finish = random.chance(1, 12);
    SimProcess process(world, "restarted");
    Session session(process, machine, plan, random());
    const Result<> lived = process.run(session.run());
    if (!lived && !report_.failure) report_.failure = lived.error();
  }

  const LifePlan plan_;
  const LifeCase only_;
  LifeCase& under_way_;
  Prng random_;
  SimWorld world_;
  Machine machine_;
  LifeReport report_;
  std::function<void(std::string_view)> trace_;
  std::uint64_t next_ = 0;
  bool crashed_ = false, killed_ = false, stored_ = false;
};

}  // namespace

LifeReport live(const LifeCase& only, const LifePlan& plan, LifeCase& under_way) { return Life(only, plan, under_way).run(); }

}  // namespace tidemark::sim
