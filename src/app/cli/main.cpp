// tidemark: the command line for people.  Parses, starts a reactor, runs one command of commands.hpp.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/parse.hpp"
#include "app/cli/text.hpp"
#include "app/runtime.hpp"
#include "app/version.hpp"
#include "base/paths.hpp"
#include "base/units.hpp"
#include "io/posix/signals.hpp"
#include "task/group.hpp"

namespace tidemark::cli {
namespace {

constexpr const char* exit_codes =
    "Every verb takes --json, --quiet and --aio METHOD.\n"
    "Exit codes: 0 done; 1 failed, nothing was changed but by steps told as done; 2 wrong usage; 3 a backup is damaged; 130 interrupted.";

std::string default_socket(const char* file) {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  return fmt::format("{}/tidemark/{}", runtime && *runtime ? runtime : "/run", file);
}

// "DISK" or "DISK=NAME"
DiskChoice parse_choice(const std::string& word) {
  const auto at = word.find('=');
  if (at == std::string::npos) return {word, {}};
  return {word.substr(0, at), word.substr(at + 1)};
}

// Not by CLI11's envname(): another verb's variable would win over this one's option.
void add_qmp(CLI::App* command, Options& options) {
  const char* set = std::getenv("TIDEMARK_QMP");
  command->add_option("--qmp", options.qmp_socket, "the daemon's QMP socket, or TIDEMARK_QMP in the environment")
      ->default_val(set && *set ? std::string(set) : default_socket("qmp.sock"))->type_name("SOCKET")->check(not_empty());
}

void add_backup(CLI::App& app, Options& options) {
  auto* command = app.add_subcommand("backup", "back up disks of a running daemon into a backup directory");
  auto chosen = std::make_shared<BackupOptions>();
  auto disks = std::make_shared<std::vector<std::string>>();
  command->add_option("DIRECTORY", chosen->directory, "the backup directory; made when it is not there")->required()->check(not_empty());
  command->add_option("--disk", *disks, "a disk, by its node or export, and its name in the backup (default: all exported writable)")
      ->type_name("DISK[=NAME]");
  static const std::map<std::string, BackupLevel> levels{
      {"auto", BackupLevel::automatic}, {"full", BackupLevel::full}, {"incremental", BackupLevel::incremental}};
  auto level = std::make_shared<std::string>("auto");
  command->add_option("--level", *level, "what to copy: auto is incremental where the last point's bitmap allows it")
      ->check(CLI::IsMember({"auto", "full", "incremental"}))->capture_default_str();
  command->add_flag("--compress", chosen->compress, "compress the images");
  command->add_option("--speed", chosen->speed, "at most so many bytes a second")->transform(size_check());
  command->add_option("--staging-budget", chosen->staging_budget,
                      "bytes that guests may overwrite before they are copied (default: 4G a disk)")->transform(size_check());
  command->add_option("--spill-directory", chosen->spill_directory, "where they wait when memory does not suffice (default: /var/tmp)")
      ->type_name("DIR")->check(not_empty());
  command->add_option("--on-staging-full", chosen->on_staging_full, "beyond the budget: the backup fails, or guests wait (default: fail)")
      ->check(CLI::IsMember({"fail", "throttle"}));
  command->add_option("--checkpoint", chosen->checkpoint, "take a checkpoint of the disks at the same moment")->type_name("NAME")
      ->check(not_empty());
  command->add_option("--since", chosen->since, "copy what was written since a checkpoint, on top of the point taken with it")
      ->type_name("CHECKPOINT")->check(not_empty())->excludes("--level");
  add_quiesce(command, chosen->quiesce, "the beginning of the backup");
  command->add_option("--machine", chosen->machine_file, "JSON of the machine's configuration to keep with the point")
      ->type_name("FILE")->check(not_empty());
  add_qmp(command, options);
  command->callback([=, &options] {
    for (const std::string& word : *disks) chosen->disks.push_back(parse_choice(word));
    chosen->directory = absolute_path(chosen->directory);
    if (!chosen->spill_directory.empty()) chosen->spill_directory = absolute_path(chosen->spill_directory);
    chosen->level = levels.at(*level);
    options.command = [=](const Context& context) { return backup(context, *chosen); };
  });
}

void add_copy(CLI::App& app, Options& options) {
  auto* command = app.add_subcommand("copy", "copy the file of a disk in use; guests write to a temporary overlay meanwhile");
  auto chosen = std::make_shared<CopyOptions>();
  command->add_option("DISK", chosen->disk, "a disk, by its export or node")->required()->check(not_empty());
  command->add_option("FILE", chosen->file, "the file to make; it appears only when it is whole")->required()->check(not_empty());
  command->add_option("--speed", chosen->speed, "at most so many bytes a second, where it cannot be cloned")->transform(size_check());
  command->add_flag("--force", chosen->force, "replace the file if it exists");
  add_qmp(command, options);
  command->callback([=, &options] {
    options.command = [=](const Context& context) { return copy(context, *chosen); };
  });
}

void add_restore(CLI::App& app, Options& options) {
  auto* command = app.add_subcommand("restore", "restore a disk of a point to a file, verifying every byte");
  auto chosen = std::make_shared<RestoreOptions>();
  command->add_option("DIRECTORY", chosen->directory, "the backup directory")->required()->check(not_empty());
  command->add_option("POINT", chosen->point, "an id, the beginning of one, or latest")->capture_default_str();
  command->add_option("--to", chosen->to, "the file to write; it appears only when it is whole")->required()
      ->check(not_empty())->type_name("FILE");
  command->add_option("--disk", chosen->disk, "which disk, when the point holds several")->type_name("NAME");
  command->add_option("--format", chosen->format, "of the file (default: qcow2 for a name that ends so, else raw)")
      ->check(CLI::IsMember({"raw", "qcow2"}));
  command->add_flag("--force", chosen->force, "replace the file if it exists");
  command->callback([=, &options] {
    if (chosen->format.empty()) chosen->format = chosen->to.ends_with(".qcow2") ? "qcow2" : "raw";
    options.command = [=](const Context& context) { return restore(context, *chosen); };
  });
}

void add_list_and_verify(CLI::App& app, Options& options) {
  auto directory = std::make_shared<std::string>();
  auto* list_command = app.add_subcommand("list", "list the points of a backup directory");
  list_command->add_option("DIRECTORY", *directory, "the backup directory")->required()->check(not_empty());
  list_command->callback([=, &options] {
    options.command = [=](const Context& context) { return list(context, *directory); };
  });
  auto chosen = std::make_shared<VerifyOptions>();
  auto* command = app.add_subcommand("verify", "read every granule of a point back and check it");
  command->add_option("DIRECTORY", chosen->directory, "the backup directory")->required()->check(not_empty());
  command->add_option("POINT", chosen->point, "an id, the beginning of one, or latest")->capture_default_str();
  command->add_flag("--all", chosen->all, "all points")->excludes("POINT");
  command->callback([=, &options] {
    options.command = [=](const Context& context) { return verify(context, *chosen); };
  });
}

// What does not fit the daemon's number would only be called no number.
CLI::Validator granularity_check() {
  return CLI::Validator([](std::string& bytes) {
    return std::stoull(bytes) <= 2 * GiB ? std::string() : std::string("a bit stands for at most 2G");
  }, "");
}

void add_bitmap(CLI::App& app, Options& options) {
  using Verb = BitmapOptions::Verb;
  auto* group = app.add_subcommand("bitmap", "dirty bitmaps of a running daemon")->require_subcommand(1);
  auto chosen = std::make_shared<BitmapOptions>();
  auto verb = [&](const char* name, const char* help, Verb which) {
    auto* command = group->add_subcommand(name, help);
    add_qmp(command, options);
    auto* node = command->add_option("DISK", chosen->node, "a disk, by its export or node");
    if (which != Verb::list) {
      node->required();
      command->add_option("NAME", chosen->name, "the bitmap's name")->required();
    }
    command->callback([=, &options] {
      chosen->verb = which;
      options.command = [=](const Context& context) { return bitmap(context, *chosen); };
    });
    return command;
  };
  verb("list", "all bitmaps, or those of a node", Verb::list);
  auto* add = verb("add", "start recording", Verb::add);
  add->add_option("--granularity", chosen->granularity, "bytes a bit stands for, a power of two")->transform(size_check())
      ->check(granularity_check());
  add->add_flag("--disabled", chosen->disabled, "do not record yet");
  add->add_flag("--persistent", chosen->persistent, "keep it when the node is closed, and through crashes");
  add->add_flag("--follows-disk", chosen->follows_disk, "snapshots, commits and mirrors of the disk take it along");
  verb("remove", "forget a bitmap", Verb::remove);
  verb("clear", "mark everything clean", Verb::clear);
  verb("enable", "record from now on", Verb::enable);
  verb("disable", "stop recording", Verb::disable);
  verb("merge", "add other bitmaps' bits to NAME", Verb::merge)
      ->add_option("SOURCE", chosen->sources, "the other bitmaps, of the same node")->required();
}

void add_checkpoint(CLI::App& app, Options& options) {
  using Verb = CheckpointOptions::Verb;
  auto* group = app.add_subcommand("checkpoint", "named points in time of a running daemon's disks")->require_subcommand(1);
  auto chosen = std::make_shared<CheckpointOptions>();
  auto verb = [&](const char* name, const char* help, Verb which) {
    auto* command = group->add_subcommand(name, help);
    add_qmp(command, options);
    if (which != Verb::list) command->add_option("NAME", chosen->name, "the checkpoint's name")->required()->check(not_empty());
    command->callback([=, &options] {
      chosen->verb = which;
      options.command = [=](const Context& context) { return checkpoint(context, *chosen); };
    });
    return command;
  };
  auto* create = verb("create", "remember from now on what is written, on all disks from one moment", Verb::create);
  create->add_option("--disk", chosen->disks, "a disk, by its export or node (default: all exported writable)")->type_name("DISK");
  create->add_option("--granularity", chosen->granularity, "bytes a bit stands for, a power of two")->transform(size_check())
      ->check(granularity_check());
  create->add_flag("--transient", chosen->transient, "forget it when the disk is closed");
  add_quiesce(create, chosen->quiesce, "the checkpoint");
  verb("list", "all checkpoints, the oldest first", Verb::list);
  verb("show", "what is known of one", Verb::show);
  verb("delete", "forget one; the others stay as good as they are", Verb::remove)
      ->add_option("--disk", chosen->disks, "a disk, by its export or node (default: all that have it)")->type_name("DISK");
}

void add_job(CLI::App& app, Options& options) {
  using Verb = JobOptions::Verb;
  auto* group = app.add_subcommand("job", "jobs of a running daemon")->require_subcommand(1);
  auto chosen = std::make_shared<JobOptions>();
  auto verb = [&](const char* name, const char* help, Verb which) {
    auto* command = group->add_subcommand(name, help);
    add_qmp(command, options);
    if (which != Verb::list) command->add_option("JOB", chosen->id, "a job's name, as job list shows it")->required();
    command->callback([=, &options] {
      chosen->verb = which;
      options.command = [=](const Context& context) { return job(context, *chosen); };
    });
    return command;
  };
  verb("list", "all jobs", Verb::list);
  verb("watch", "show a job's progress until it ends, or waits to be completed or finalized", Verb::watch);
  verb("pause", "stop working, and keep the job", Verb::pause);
  verb("resume", "go on", Verb::resume);
  verb("complete", "let a job that is ready take effect, and wait until it has", Verb::complete);
  verb("finalize", "let a job that is pending (auto-finalize=false) take effect, and wait until it has", Verb::finalize);
  verb("dismiss", "forget a job that has concluded (auto-dismiss=false)", Verb::dismiss);
  verb("cancel", "end a job without its result", Verb::cancel)->add_flag("--force", chosen->force, "do not wait for writes");
  verb("set-speed", "limit a job's rate", Verb::set_speed)
      ->add_option("SPEED", chosen->speed, "bytes a second; 0: no limit")->required()->transform(size_check());
}

void add_qmp_verb(CLI::App& app, Options& options) {
  auto* command = app.add_subcommand("qmp", "run one QMP command, or those that standard input gives line by line");
  auto chosen = std::make_shared<QmpOptions>();
  command->add_option("COMMAND", chosen->command, "its name; none: standard input gives commands");
  command->add_option("ARGUMENT", chosen->arguments, "KEY=VALUE, also KEY.MEMBER=VALUE and KEY.0=VALUE, or one JSON object")->type_name("");
  command->footer("A VALUE becomes what the command takes; where it takes anything, as qom-set does, a string: JSON says what it is.");
  add_qmp(command, options);
  command->callback([=, &options] {
    options.command = [=](const Context& context) { return qmp(context, *chosen); };
  });
}

void add_serve(CLI::App& app, Options& options) {
  auto* command = app.add_subcommand("serve", "serve disk images over NBD, ready for backups; prints their URIs");
  auto chosen = std::make_shared<ServeOptions>();
  command->add_option("DISK", chosen->disks, "an image or device, and its name")->required()->type_name("FILE[=NAME]");
  command->add_option("--format", chosen->format, "raw or qcow2 (default: by name and content)")->check(CLI::IsMember({"raw", "qcow2"}));
  command->add_option("--nbd", chosen->nbd_socket, "the NBD socket")->default_val(default_socket("nbd.sock"))->type_name("SOCKET")
      ->check(not_empty());
  command->add_option("--tcp", chosen->nbd_tcp, "listen on an address instead")->type_name("HOST:PORT");
  command->add_flag("--read-only", chosen->read_only, "clients and backups only read");
  command->add_flag("--direct", chosen->direct, "past the page cache");
  add_qmp(command, options);
  command->callback([=, &options] {
    options.immediate = [=, &options] { return serve(options.qmp_socket, *chosen, options.json); };
  });
}

// The first Ctrl-C asks the command to clean up and end; the second ends the process.
Task<> watch_signals(SignalWatch& signals, CancelSource& interrupted, CancelToken done) {
  for (;;) {
    auto number = co_await signals.next(done).result();
    if (!number) co_return;
    if (interrupted.requested()) std::_Exit(static_cast<int>(Exit::interrupted));
    interrupted.request();
  }
}

// CLI11 would only say what is missing when a word is unknown, or a file's name begins with '-'.
std::string usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const std::string message = error.what();
  for (const std::string& word : app.remaining(true)) {
    if (word.size() > 1 && word.starts_with('-'))
      return fmt::format("option '{0}' is unknown; a file of that name is written './{0}'", word);
    if (message.find("subcommand") != std::string::npos) return fmt::format("there is no '{}'", word);
  }
  return message;
}

// A command that had something to clean up says so itself.
Error interruption(const Error& error) {
  return error.message().starts_with("interrupted") ? error : Error(Errc::cancelled, "interrupted");
}

Task<Exit> run_command(Reactor& reactor, const Options& options, SignalWatch& signals) {
  CancelSource interrupted;
  Context context{reactor, interrupted.token(), options.json,
                  !options.json && !options.quiet && (options.progress || ::isatty(STDERR_FILENO) == 1), options.qmp_socket};
  auto body = [&](TaskGroup& group) -> Task<Exit> {
    group.spawn(watch_signals(signals, interrupted, group.token()));
    co_return co_await options.command(context);
  };
  auto outcome = co_await with_group(reactor, body).result();
  if (outcome) co_return *outcome;
  const bool stopped = interrupted.requested() && outcome.error().code() == Errc::cancelled;
  print_error(stopped ? interruption(outcome.error()) : outcome.error(), options.json);
  if (stopped) co_return Exit::interrupted;
  co_return outcome.error().code() == Errc::corrupt ? Exit::damaged : Exit::failed;
}

// What was printed has to have arrived: a full disk shows here at the latest.
Exit output_checked(Exit outcome, bool json) {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return outcome;
  const char* done = outcome == Exit::ok ? "done, but its output is lost" : "the output is lost";
  print_error(Error::from_errno(errno, done), json);
  return outcome == Exit::ok ? Exit::failed : outcome;
}

Exit run(const Options& options) {
  ::signal(SIGPIPE, SIG_IGN);            // who reads along may go; what was begun is ended in order
  auto backend = make_backend(options.aio);
  if (!backend) {
    print_error(backend.error(), options.json);
    return Exit::failed;
  }
  Reactor reactor(**backend);
  auto signals = SignalWatch::create(reactor, {SIGINT, SIGTERM, SIGHUP});
  if (!signals) {
    print_error(signals.error(), options.json);
    return Exit::failed;
  }
  auto outcome = reactor.run(run_command(reactor, options, *signals));
  (void)reactor.run(signals->close());
  return outcome ? *outcome : Exit::failed;
}

int main(int argc, char** argv) {
  Options options;
  CLI::App app("tidemark: live backups of virtual machine disks", "tidemark");
  app.set_version_flag("--version", fmt::format("tidemark {}", version_text));
  app.footer(exit_codes);
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", options.json, "print results and errors as JSON");
  app.add_flag("--quiet,-q", options.quiet, "no progress bar");
  app.add_option("--aio", options.aio, "io_uring or threads (default: what the kernel grants)")
      ->check([](const std::string& name) {
        return name == "io_uring" || name == "threads" ? std::string() : "'" + name + "' is unknown; use io_uring or threads";
      });
  add_serve(app, options);
  add_backup(app, options);
  add_copy(app, options);
  add_restore(app, options);
  add_list_and_verify(app, options);
  add_bitmap(app, options);
  add_checkpoint(app, options);
  add_job(app, options);
  add_image(app, options);
  add_chain(app, options);
  add_snapshot(app, options);
  add_qmp_verb(app, options);
  try {
    parse_words(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error);
      return static_cast<int>(output_checked(Exit::ok, false));
    }
    const bool json = std::find(argv, argv + argc, std::string_view("--json")) != argv + argc;
    print_error(Error(Errc::invalid_argument, fmt::format("{} (see tidemark --help)", usage_error(app, error))), json);
    return static_cast<int>(Exit::usage);
  }
  return static_cast<int>(options.immediate ? options.immediate() : output_checked(run(options), options.json));
}

}  // namespace
}  // namespace tidemark::cli

int main(int argc, char** argv) {
  tidemark::open_standard_streams();
  tidemark::allow_many_files();
  return tidemark::cli::main(argc, argv);
}
