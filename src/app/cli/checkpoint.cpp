#include <algorithm>
#include <functional>
#include <optional>

#include <fmt/format.h>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/commands.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Verb = CheckpointOptions::Verb;

std::string time_of(const Json& checkpoint) { return utc_time(static_cast<std::int64_t>(number(checkpoint, "taken")) * 1000); }

std::string since(const Json& disk) { return disk.find("since") ? human_size(number(disk, "since")) : "not known"; }

std::string state_of(const Json& disk) {
  std::string state = flag(disk, "recording") ? "recording" : "frozen";
  if (flag(disk, "persistent")) state += ",persistent";
  if (disk.find("inconsistent-reason")) state += ",inconsistent";
  return state;
}

const Json& disks_of(const Json& checkpoint) {
  static const Json none = Json::array();
  const Json* disks = checkpoint.find("disks");
  return disks ? *disks : none;
}

void print_all(const Json& checkpoints) {
  Table table({"CHECKPOINT", "TAKEN", "DISK", "SINCE"});
  for (const Json& checkpoint : items(checkpoints))
    for (const Json& disk : items(disks_of(checkpoint)))
      table.add({text(checkpoint, "name"), time_of(checkpoint), text(disk, "node"), since(disk)});
  print_lines(table.to_text());
}

void print_one(const Json& checkpoint) {
  Table table({"DISK", "TAKEN", "PARENT", "WRITTEN", "SINCE", "STATE", "BITMAP"});
  for (const Json& disk : items(disks_of(checkpoint))) {
    const std::string parent = text(disk, "parent");
    table.add({text(disk, "node"), time_of(checkpoint), parent.empty() ? "-" : parent, human_size(number(disk, "written")),
               since(disk), state_of(disk), text(disk, "bitmap")});
  }
  print_lines(table.to_text());
}

Task<> list_checkpoints(const Context& context, QmpClient& client) {
  const Json all = co_await client.execute("query-checkpoints");
  if (context.json) print_json(all);
  else print_all(all);
}

// Of several of one name the last.
Task<> show_checkpoint(const Context& context, QmpClient& client, std::string name) {
  const Json all = co_await client.execute("query-checkpoints");
  const Json* found = nullptr;
  for (const Json& checkpoint : items(all))
    if (text(checkpoint, "name") == name) found = &checkpoint;
  if (!found) co_await Error(Errc::not_found, fmt::format("the daemon has no checkpoint '{}'", name));
  if (context.json) print_json(*found);
  else print_one(*found);
}

Json names_of(const std::vector<std::string>& disks) {
  Json names = Json::array();
  for (const std::string& disk : disks) names.push_back(disk);
  return names;
}

// The disks' images; a node that a disk has left is called by its own name where it has the checkpoint, and the disk has not.
Task<std::vector<std::string>> nodes_with(QmpClient& client, std::string checkpoint, std::vector<std::string> disks) {
  const Disks view = co_await all_disks(client);
  const Json all = co_await client.execute("query-checkpoints");
  const auto has = [&](const std::string& node) {
    return std::ranges::any_of(items(all), [&](const Json& one) {
      return text(one, "name") == checkpoint && find_by(disks_of(one), "node", node);
    });
  };
  for (std::string& disk : disks) {
    std::string image = image_of_disk(view.nodes, node_of_disk(view, disk));
    if (has(image) || !has(disk)) disk = std::move(image);
  }
  co_return std::move(disks);
}

Task<> create_checkpoint(const Context& context, QmpClient& client, CheckpointOptions options) {
  const Disks view = co_await all_disks(client);
  std::string names;
  for (std::string& disk : options.disks) {
    names += (names.empty() ? "" : " ") + disk;
    disk = co_await unwrap(written_image_of(view, disk));
  }
  std::vector<ExportedDisk> exported;
  if (options.disks.empty()) exported = exported_writable(view);
  for (const ExportedDisk& disk : exported) {
    names += (names.empty() ? "" : " ") + disk.names.front();
    options.disks.push_back(disk.node);
  }
  if (options.disks.empty())
    co_await Error(Errc::not_found, "the daemon exports no writable disk; name the disks with --disk");
  Json arguments = Json::object({{"name", options.name}, {"disks", names_of(options.disks)}});
  if (options.granularity) arguments.set("granularity", options.granularity);
  if (options.transient) arguments.set("persistent", false);
  std::optional<Json> answer;
  const std::function<Task<>()> create = [&]() -> Task<> {
    co_await unwrap(context.check_interrupted());
    answer = co_await client.execute("checkpoint-create", std::move(arguments));
  };
  const auto quiesced = co_await while_quiesced(context, options.quiesce, std::move(names), create).result();
  if (!answer) co_await unwrap(quiesced);
  if (context.json) print_json(*answer);
  if (!quiesced) co_await quiesced.error().with_context(fmt::format("checkpoint '{}'", options.name));
}

Task<> delete_checkpoint(const Context& context, QmpClient& client, CheckpointOptions options) {
  options.disks = co_await nodes_with(client, options.name, std::move(options.disks));
  Json arguments = Json::object({{"name", options.name}});
  if (!options.disks.empty()) arguments.set("disks", names_of(options.disks));
  const Json answer = co_await client.execute("checkpoint-delete", std::move(arguments));
  if (context.json) print_json(answer);
}

Task<> run(const Context& context, QmpClient& client, CheckpointOptions options) {
  switch (options.verb) {
    case Verb::create: co_await create_checkpoint(context, client, std::move(options)); break;
    case Verb::list: co_await list_checkpoints(context, client); break;
    case Verb::show: co_await show_checkpoint(context, client, options.name); break;
    case Verb::remove: co_await delete_checkpoint(context, client, std::move(options)); break;
  }
}

}  // namespace

Task<Exit> checkpoint(const Context& context, CheckpointOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(run(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
