// `tidemark snapshot` on the command line.
#include <cstdlib>
#include <filesystem>

#include "app/cli/parse.hpp"
#include "app/cli/snapshot/commands.hpp"

namespace tidemark::cli {
namespace {

// A disk is one in a file, unless a daemon is named here or in the environment.
std::shared_ptr<std::string> add_socket(CLI::App* command) {
  auto socket = std::make_shared<std::string>();
  if (const char* set = std::getenv("TIDEMARK_QMP")) *socket = set;
  command->add_option("--qmp", *socket, "a daemon's QMP socket, or TIDEMARK_QMP in the environment; without, image files are meant")
      ->type_name("SOCKET")->check(not_empty());
  return socket;
}

bool is_live(const std::string& socket, Options& options) {
  if (!socket.empty()) options.qmp_socket = socket;
  return !socket.empty();
}

constexpr const char* disk_help = "an image file; with a daemon, a disk by its export or node";
constexpr const char* internal_help = "of those that qcow2 images keep themselves";

// DISK, DISK=FILE; a file whose name has a '=' is a disk's.
SnapshotCreateOptions::Disk parse_disk(const std::string& word, bool live) {
  std::error_code ignored;
  const auto at = word.rfind('=');
  if (at == std::string::npos || (!live && std::filesystem::exists(word, ignored))) return {word, {}};
  return {word.substr(0, at), word.substr(at + 1)};
}

void add_create(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("create", "keep what disks hold now, all at one moment");
  auto chosen = std::make_shared<SnapshotCreateOptions>();
  auto disks = std::make_shared<std::vector<std::string>>();
  command->add_option("DISK", *disks, "an image file, or a daemon's disk; and the file to be written to from then on")->required()
      ->type_name("DISK[=FILE]")->check(not_empty());
  command->add_option("--name", chosen->name, "the snapshot's name (default: the seconds since 1970)")->check(not_empty());
  command->add_flag("--internal", chosen->internal, "keep it in the disk's qcow2 image itself");
  add_quiesce(command, chosen->quiesce, "the snapshot");
  auto socket = add_socket(command);
  command->callback([=, &options] {
    chosen->live = is_live(*socket, options);
    for (const std::string& word : *disks) chosen->disks.push_back(parse_disk(word, chosen->live));
    options.command = [=](const Context& context) { return snapshot_create(context, *chosen); };
  });
}

void add_list(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("list", "the snapshots of disks: layers below, and those that images keep");
  auto disks = std::make_shared<std::vector<std::string>>();
  command->add_option("DISK", *disks, disk_help)->required()->check(not_empty());
  auto socket = add_socket(command);
  command->callback([=, &options] {
    SnapshotListOptions chosen;
    for (const std::string& disk : *disks) chosen.disks.push_back({is_live(*socket, options), disk});
    options.command = [=](const Context& context) { return snapshot_list(context, chosen); };
  });
}

void add_revert(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("revert", "let a disk be one of its snapshots again");
  auto chosen = std::make_shared<SnapshotRevertOptions>();
  command->add_option("DISK", chosen->disk.top, disk_help)->required()->check(not_empty());
  command->add_option("SNAPSHOT", chosen->snapshot, "a layer, as DISK[1] or 1; with --internal an id or a name")->required()
      ->check(not_empty());
  command->add_flag("--internal", chosen->internal, internal_help);
  auto* overlay = command->add_option("--overlay", chosen->overlay, "make this file the disk, on the snapshot; all others stay as they are")
      ->type_name("FILE")->check(not_empty());
  command->add_flag("--discard", chosen->discard, "empty the disk's file, on the snapshot; what was written since is lost")
      ->excludes(overlay);
  auto socket = add_socket(command);
  command->callback([=, &options] {
    chosen->disk.live = is_live(*socket, options);
    options.command = [=](const Context& context) { return snapshot_revert(context, *chosen); };
  });
}

void add_delete(CLI::App* group, Options& options) {
  using Way = SnapshotDeleteOptions::Way;
  auto* command = group->add_subcommand("delete", "forget snapshots; the disk and the other snapshots stay as they are");
  auto chosen = std::make_shared<SnapshotDeleteOptions>();
  auto way = std::make_shared<std::string>("auto");
  command->add_option("DISK", chosen->disk.top, disk_help)->required()->check(not_empty());
  command->add_option("SNAPSHOT", chosen->snapshots, "a layer, as DISK[1] or 1; with --internal an id or a name")->required()
      ->check(not_empty());
  command->add_flag("--internal", chosen->internal, internal_help);
  command->add_option("--way", *way, "pull the layer into the one above, commit that to the layer, or what moves least")
      ->check(CLI::IsMember({"auto", "pull", "commit"}))->capture_default_str();
  command->add_option("--speed", chosen->speed, "at most so many bytes a second, with a daemon")->transform(size_check());
  auto socket = add_socket(command);
  command->callback([=, &options] {
    chosen->disk.live = is_live(*socket, options);
    if (*way != "auto") chosen->way = *way == "pull" ? Way::pull : Way::commit;
    options.command = [=](const Context& context) { return snapshot_delete(context, *chosen); };
  });
}

}  // namespace

void add_snapshot(CLI::App& app, Options& options) {
  auto* group = app.add_subcommand("snapshot", "snapshots of image files, or of a running daemon's disks")->require_subcommand(1);
  add_create(group, options);
  add_list(group, options);
  add_revert(group, options);
  add_delete(group, options);
}

}  // namespace tidemark::cli
