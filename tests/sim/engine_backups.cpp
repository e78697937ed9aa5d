// An operator who takes backups: as `tidemark backup` does, with a new bitmap for each point; as QEMU's users do,
// with one bitmap; and alone.
#include "task/group.hpp"
#include "tests/sim/engine_session.hpp"

namespace tidemark::sim {
namespace {

constexpr std::size_t layers_max = 4, alone_max = 2;
const std::string directory = "/b/";

std::string target_node(std::size_t disk, std::string_view chain) { return "target-" + std::string(chain) + std::to_string(disk); }

}  // namespace

std::vector<std::size_t> Session::some_disks() {
  std::vector<std::size_t> disks;
  for (std::size_t i = 0; i < machine_.disks.size(); ++i)
    if (random_.chance(2, 3)) disks.push_back(i);
  if (disks.empty()) disks.push_back(random_.below(machine_.disks.size()));
  return disks;
}

// One after the other: a disk has one backup at a time.
Task<> Session::manage_backups() {
  for (int i = 0; i < plan_.steps / 3 + 1; ++i) {
    switch (random_.below(5)) {
      case 0: co_await back_up_alone(random_.below(machine_.disks.size())); break;
      case 1:
      case 2: co_await back_up_own(some_disks()); break;
      default: co_await back_up_incremental(some_disks(), random_.chance(1, 2)); break;
    }
    co_await dally(1000);
  }
}

// So little that it is used up now and then.
void Session::set_staging(Json& arguments, Watched& job) {
  arguments.set("staging-memory", 192 * KiB << random_.below(2));
  arguments.set("staging-budget", 192 * KiB << random_.below(2));
  const bool spill = random_.chance(2, 3);
  arguments.set("spill", spill);
  if (spill) arguments.set("spill-directory", scratch);
  job.may_overflow = random_.chance(1, 2);
  arguments.set("on-staging-full", job.may_overflow ? "fail" : "throttle");
}

Json Session::backup_arguments(const Order& order) {
  Json arguments = Json::object({{"job-id", order.job}, {"device", machine_.disks[order.disk].plan.node}, {"target", order.node},
                                 {"sync", order.sync}});
  if (!order.bitmap.empty()) arguments.set("bitmap", order.bitmap);
  if (!order.mode.empty()) arguments.set("bitmap-mode", order.mode);
  if (order.compress) arguments.set("compress", true);
  if (random_.chance(1, 4)) arguments.set("speed", 64 * MiB);
  if (random_.chance(1, 2)) set_staging(arguments, jobs_.at(order.job));
  if (random_.chance(1, 4)) arguments.set("auto-finalize", true);
  return arguments;
}

// Makes and opens the target of an order; the names are new.
Task<bool> Session::begin_order(Order& order, Chain* chain, bool open_backing) {
  const MachineDisk& disk = machine_.disks[order.disk];
  order.path = directory + machine_.new_name("t") + "." + order.format;
  order.node = target_node(order.disk, machine_.new_name("n"));
  order.job = machine_.new_name("job");
  if (chain) chain->under_way = order.path, chain->began = false;
  else machine_.litter.insert(order.path);
  const std::string backing = chain && !chain->layers.empty() ? chain->layers.back() : "";
  const bool made = co_await make_target(disk.content.size(), order.path, order.format, backing);
  if (!made) co_return false;
  order.opened = co_await add_target(order.path, order.format, order.node, open_backing);
  co_return order.opened;
}

void Session::watch(const Order& order, unsigned command, const std::string& bitmap) {
  Watched job;
  job.disk = order.disk;
  job.path = order.path;
  job.format = order.format;
  job.top_only = order.sync == "top";
  job.command = command;
  job.bitmap = bitmap;
  job.always = order.mode == "always";
  jobs_[order.job] = std::move(job);
  if (!bitmap.empty()) taken_.insert({machine_.disks[order.disk].plan.node, bitmap});
}

// Waits, cancels now and then, closes targets.
Task<> Session::see_through(std::vector<Order>& orders) {
  std::vector<std::string> ids;
  for (const Order& order : orders) ids.push_back(order.job);
  if (plan_.work && random_.chance(1, plan_.cancels)) {
    co_await dally(2000);
    Json arguments = Json::object({{"id", ids[random_.below(ids.size())]}});
    (void)co_await execute("job-cancel", std::move(arguments));     // it may be over
  }
  co_await wait_for(std::move(ids));
}

Task<> Session::close_targets(std::vector<Order>& orders) {
  for (Order& order : orders) {
    if (!std::exchange(order.opened, false)) continue;
    Json arguments = Json::object({{"node-name", order.node}});
    const Result<Json> closed = co_await execute("blockdev-del", std::move(arguments));
    if (!closed && !machine_.targets_fail && !machine_.stores_fail) complain("a target cannot be closed: " + closed.error().message());
  }
}

bool Session::all_well(const std::vector<Order>& orders) const {
  bool well = true;
  for (const Order& order : orders) {
    const auto job = jobs_.find(order.job);
    well = well && job != jobs_.end() && job->second.well();
  }
  return well;
}

void Session::forget_jobs(const std::vector<Order>& orders) {
  for (const Order& order : orders) {
    const auto job = jobs_.find(order.job);
    if (job == jobs_.end()) continue;
    if (!job->second.bitmap.empty()) taken_.erase({machine_.disks[order.disk].plan.node, job->second.bitmap});
    const MachineDisk& disk = machine_.disks[order.disk];
    const bool blameless = job->second.well() || job->second.cancelled || disk.may_fail || machine_.targets_fail || machine_.stores_fail;
    if (job->second.over && !blameless && job->second.error->find("cancel") == std::string::npos)
      complain("a backup failed: " + *job->second.error);
    jobs_.erase(job);
  }
}

// Tells jobs_ before the command, so that nothing is missed.
Task<bool> Session::start(std::vector<Order>& orders, std::vector<Change> changes, std::vector<Action> actions, bool grouped) {
  for (const Order& order : orders) actions.push_back({"blockdev-backup", backup_arguments(order)});
  std::vector<std::shared_ptr<Point>> moments;
  for (Change& change : changes) {
    taken_.insert({change.disk->plan.node, change.name});
    moments.push_back(change.disk->content.watch());
    change.after.since.push_back(moments.back());
    change.disk->bitmaps.at(change.name).may_be.push_back(change.after);
  }
  const bool single = actions.size() == 1 && !grouped && random_.chance(1, 2);
  Json arguments = single ? std::move(actions[0].second) : transaction_of(std::move(actions), grouped);
  std::string command = "transaction";
  if (single) command = "blockdev-backup";
  const Result<Json> answer = co_await execute(std::move(command), std::move(arguments));
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Change& change = changes[i];
    taken_.erase({change.disk->plan.node, change.name});
    change.disk->content.forget(moments[i]);
    if (answer) change.disk->bitmaps.at(change.name).settle(std::move(change.after));
  }
  co_await unwrap(tolerate(answer, machine_.disks[orders.front().disk]));
  if (!answer) forget_jobs(orders);
  co_return answer.ok();
}

// As app/cli/backup_run.cpp: a new bitmap and a job for each disk at one moment; what was published stays.
Task<> Session::back_up_own(std::vector<std::size_t> disks) {
  std::vector<Order> orders;
  std::vector<Change> changes;
  std::vector<Action> actions;
  const unsigned command = ++commands_;
  bool ready = true;
  for (const std::size_t disk : disks) {
    Chain& chain = machine_.disks[disk].own;
    if (chain.layers.size() >= layers_max) co_await drop_chain(machine_.disks[disk], chain);
    Order& order = orders.emplace_back();
    order.disk = disk;
    order.new_bitmap = machine_.new_name("point");
    order.compress = random_.chance(1, 5);
    order.bitmap = chain.bitmap;
    order.sync = chain.bitmap.empty() ? "full" : "bitmap";
    if (!chain.bitmap.empty()) order.mode = "never";
    const bool begun = co_await begin_order(order, &chain, false);
    ready = ready && begun;
    changes.push_back(new_bitmap(machine_.disks[disk], order.new_bitmap, true, 4096u << (2 * random_.below(3))));
    actions.push_back(add_action(machine_.disks[disk], order.new_bitmap));
    watch(order, command, "");
  }
  if (ready) ready = co_await start(orders, std::move(changes), std::move(actions), false);
  if (ready) co_await see_through(orders);
  co_await close_targets(orders);
  co_await publish(orders, ready && all_well(orders));
  forget_jobs(orders);
}

Task<> Session::publish(std::vector<Order>& orders, bool well) {
  for (const Order& order : orders) {
    MachineDisk& disk = machine_.disks[order.disk];
    Chain& chain = disk.own;
    std::string superfluous = well ? std::exchange(chain.bitmap, order.new_bitmap) : order.new_bitmap;
    chain.under_way.clear();
    if (well) {
      chain.layers.push_back(order.path);
      chain.point = jobs_.at(order.job).point;
    } else {
      co_await drop_file(order.path);
    }
    if (present(disk, superfluous)) co_await remove(disk, std::move(superfluous));
  }
}

// One bitmap, and jobs that take its bits.
Task<> Session::back_up_incremental(std::vector<std::size_t> disks, bool grouped) {
  std::vector<Order> orders;
  std::vector<Change> changes;
  std::vector<Action> actions;
  const unsigned command = ++commands_;
  bool ready = true;
  for (const std::size_t number : disks) {
    MachineDisk& disk = machine_.disks[number];
    Chain& chain = disk.incremental;
    if (chain.layers.size() >= layers_max) co_await drop_chain(disk, chain);
    Order& order = orders.emplace_back();
    order.disk = number;
    const bool begun = co_await begin_order(order, &chain, random_.chance(1, 2));
    ready = ready && begun;
    const std::uint64_t how = random_.below(3);
    order.bitmap = chain.bitmap;
    if (chain.layers.empty()) {
      order.sync = "full";
      order.bitmap.clear();
      grouped = false;
      const bool there = present(disk, "inc");
      changes.push_back(there ? Change{&disk, "inc", {}, true} : new_bitmap(disk, "inc", true, 16384));
      Json which = Json::object({{"node", disk.plan.node}, {"name", "inc"}});
      actions.push_back(there ? Action{"block-dirty-bitmap-clear", std::move(which)} : add_action(disk, "inc"));
    } else {
      order.sync = how == 0 ? "incremental" : "bitmap";
      order.mode = how == 2 ? "always" : "on-success";
    }
    watch(order, command, order.bitmap);
  }
  if (ready) ready = co_await start(orders, std::move(changes), std::move(actions), grouped);
  if (ready) co_await see_through(orders);
  co_await close_targets(orders);
  for (const Order& order : orders) co_await take_on(order, ready);
  forget_jobs(orders);
}

// A target with some of the changes, whose bits are dropped, is part of the chain, too.
Task<> Session::take_on(const Order& order, bool started) {
  Chain& chain = machine_.disks[order.disk].incremental;
  const auto job = jobs_.find(order.job);
  const bool well = started && job->second.well();
  const bool partial = started && job->second.began && order.mode == "always";
  chain.under_way.clear();
  if (!well && !partial) co_return co_await drop_file(order.path);
  chain.layers.push_back(order.path);
  chain.point = well ? job->second.point : nullptr;
  chain.bitmap = "inc";
}

Task<> Session::drop_chain(MachineDisk& disk, Chain& chain) {
  std::vector<std::string> layers = std::exchange(chain.layers, {});
  co_await drop_files(std::move(layers));
  std::string bitmap = std::exchange(chain.bitmap, "");
  chain.point = nullptr;
  if (present(disk, bitmap)) co_await remove(disk, std::move(bitmap));
}

Task<> Session::back_up_alone(std::size_t disk) {
  std::vector<Order> orders(1);
  Order& order = orders.front();
  order.disk = disk;
  order.format = random_.chance(1, 2) ? "raw" : "qcow2";
  order.sync = random_.chance(1, 3) ? "top" : "full";
  order.compress = order.format == "qcow2" && random_.chance(1, 3);
  bool ready = co_await begin_order(order, nullptr, false);
  watch(order, ++commands_, "");
  std::vector<Change> no_changes;
  std::vector<Action> no_actions;
  if (ready) ready = co_await start(orders, std::move(no_changes), std::move(no_actions), false);
  if (ready) co_await see_through(orders);
  co_await close_targets(orders);
  if (ready && all_well(orders)) {
    machine_.litter.erase(order.path);
    machine_.backups.push_back({disk, order.path, order.format, jobs_.at(order.job).point, order.sync == "top"});
    if (machine_.backups.size() > alone_max) {
      std::string oldest = machine_.backups.front().path;
      machine_.backups.erase(machine_.backups.begin());
      co_await drop_file(std::move(oldest));
    }
  } else {
    co_await drop_file(order.path);
  }
  machine_.litter.erase(order.path);
  forget_jobs(orders);
}

}  // namespace tidemark::sim
