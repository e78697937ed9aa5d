// An operator who does to bitmaps what can be done.
#include "tests/sim/engine_session.hpp"

namespace tidemark::sim {
namespace {

constexpr std::size_t bitmaps_max = 3;             // of a disk, besides those of chains

Json named(const MachineDisk& disk, const std::string& name) { return Json::object({{"node", disk.plan.node}, {"name", name}}); }

bool random_name(const std::string& name) { return name.starts_with("b"); }

}  // namespace

Task<> Session::manage_bitmaps() {
  for (int i = 0; i < plan_.steps; ++i) {
    MachineDisk& disk = machine_.disks[random_.below(machine_.disks.size())];
    co_await manage_one(disk);
    co_await dally(1000);
  }
}

bool Session::taken(const MachineDisk& disk, const std::string& bitmap) const { return taken_.contains({disk.plan.node, bitmap}); }

Task<> Session::manage_one(MachineDisk& disk) {
  std::vector<std::string> names;
  for (const auto& [name, bitmap] : disk.bitmaps)
    if (random_name(name) && bitmap.may_be.size() == 1 && !taken(disk, name) && present(disk, name)) names.push_back(name);
  if (names.empty() || (names.size() < bitmaps_max && random_.chance(1, 4))) {
    const std::uint32_t granularities[] = {512, 4096, 16384, 65536};
    co_return co_await add(disk, machine_.new_name("b"), random_.chance(3, 4), granularities[random_.below(4)]);
  }
  const std::string name = names[random_.below(names.size())], other = names[random_.below(names.size())];
  switch (random_.below(6)) {
    case 0: co_return co_await remove(disk, name);
    case 1: co_return co_await restart(disk, name);
    case 2: co_return co_await swap(disk, name);
    case 3:
      if (name != other) co_await merge(disk, name, other);
      co_return;
    default: co_return co_await clear(disk, name);
  }
}

Task<> Session::carry_out(std::vector<Change> changes, std::vector<Action> actions) {
  std::vector<std::shared_ptr<Point>> moments;
  for (Change& change : changes) {
    taken_.insert({change.disk->plan.node, change.name});
    moments.push_back(change.disk->content.watch());
    if (change.anew && change.after.recording) change.after.since.push_back(moments.back());
    change.disk->bitmaps.at(change.name).may_be.push_back(change.after);
  }
  Result<Json> answer = Json();
  if (actions.size() == 1) answer = co_await execute(actions[0].first, std::move(actions[0].second));
  else answer = co_await execute("transaction", transaction_of(std::move(actions), false));
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Change& change = changes[i];
    taken_.erase({change.disk->plan.node, change.name});
    change.disk->content.forget(moments[i]);
    if (!answer || change.disk->store_fails) continue;
    if (change.after.there) change.disk->bitmaps.at(change.name).settle(std::move(change.after));
    else change.disk->bitmaps.erase(change.name);
  }
  co_await unwrap(tolerate(answer, *changes.front().disk));
  if (!answer) co_await answer.error();
}

Json Session::transaction_of(std::vector<Action> actions, bool grouped) {
  Json list = Json::array();
  for (Action& action : actions) list.push_back(Json::object({{"type", action.first}, {"data", std::move(action.second)}}));
  Json arguments = Json::object({{"actions", std::move(list)}});
  if (grouped) arguments.set("properties", Json::object({{"completion-mode", "grouped"}}));
  return arguments;
}

Session::Change Session::new_bitmap(MachineDisk& disk, const std::string& name, bool persistent, std::uint32_t granularity) {
  BitmapModel& bitmap = disk.bitmaps[name];
  bitmap.persistent = persistent;
  bitmap.granularity = granularity;
  BitmapState none;
  none.there = false;
  bitmap.settle(none);
  return {&disk, name, {}, true};
}

Session::Action Session::add_action(const MachineDisk& disk, const std::string& name) {
  const BitmapModel& bitmap = disk.bitmaps.at(name);
  Json arguments = named(disk, name);
  arguments.set("granularity", bitmap.granularity);
  if (bitmap.persistent) arguments.set("persistent", true);
  return {"block-dirty-bitmap-add", std::move(arguments)};
}

Task<> Session::add(MachineDisk& disk, std::string name, bool persistent, std::uint32_t granularity) {
  std::vector<Change> changes{new_bitmap(disk, name, persistent, granularity)};
  std::vector<Action> actions{add_action(disk, name)};
  (void)co_await carry_out(std::move(changes), std::move(actions)).result();
}

Task<> Session::remove(MachineDisk& disk, std::string name) {
  BitmapState gone;
  gone.there = false;
  std::vector<Change> changes{{&disk, name, gone, false}};
  std::vector<Action> actions{{"block-dirty-bitmap-remove", named(disk, name)}};
  (void)co_await carry_out(std::move(changes), std::move(actions)).result();
}

// A bitmap that begins anew, and goes on to record or not.
Session::Change Session::cleared(MachineDisk& disk, const std::string& name) {
  BitmapState empty;
  empty.recording = disk.bitmaps.at(name).may_be.front().recording;
  return {&disk, name, empty, true};
}

Task<> Session::clear(MachineDisk& disk, std::string name) {
  std::vector<Change> changes{cleared(disk, name)};
  std::vector<Action> actions{{"block-dirty-bitmap-clear", named(disk, name)}};
  (void)co_await carry_out(std::move(changes), std::move(actions)).result();
}

// Disabled for a while, then enabled with no bits.
Task<> Session::restart(MachineDisk& disk, std::string name) {
  BitmapState idle;
  idle.recording = false;
  std::vector<Change> off{{&disk, name, idle, false}};
  std::vector<Action> disable{{"block-dirty-bitmap-disable", named(disk, name)}};
  const Result<> disabled = co_await carry_out(std::move(off), std::move(disable)).result();
  if (!disabled) co_return;
  co_await dally(1000);
  std::vector<Change> on{{&disk, name, {}, true}};
  std::vector<Action> enable{{"block-dirty-bitmap-clear", named(disk, name)}, {"block-dirty-bitmap-enable", named(disk, name)}};
  (void)co_await carry_out(std::move(on), std::move(enable)).result();
}

Json Session::merge_arguments(const MachineDisk& disk, const std::string& from, const std::string& to) {
  Json sources = Json::array({from});
  return Json::object({{"node", disk.plan.node}, {"target", to}, {"bitmaps", std::move(sources)}});
}

Task<> Session::merge(MachineDisk& disk, std::string from, std::string to) {
  BitmapState both = disk.bitmaps.at(to).may_be.front();
  const BitmapState& source = disk.bitmaps.at(from).may_be.front();
  if (both.recording) both.since.insert(both.since.end(), source.since.begin(), source.since.end());
  std::vector<Change> changes{{&disk, to, both, false}};
  std::vector<Action> actions{{"block-dirty-bitmap-merge", merge_arguments(disk, from, to)}};
  (void)co_await carry_out(std::move(changes), std::move(actions)).result();
}

// A new one takes over what an old one has, which begins anew, at one moment.
Task<> Session::swap(MachineDisk& disk, std::string name) {
  const BitmapState old = disk.bitmaps.at(name).may_be.front();
  const std::string heir = machine_.new_name("b");
  std::vector<Change> changes{new_bitmap(disk, heir, true, 4096), cleared(disk, name)};
  changes[0].after.since = old.since;
  changes[0].anew = false;
  std::vector<Action> actions{add_action(disk, heir),
                              {"block-dirty-bitmap-merge", merge_arguments(disk, name, heir)},
                              {"block-dirty-bitmap-clear", named(disk, name)}};
  (void)co_await carry_out(std::move(changes), std::move(actions)).result();
}

}  // namespace tidemark::sim
