#include "app/daemon/options.hpp"

#include <getopt.h>

#include <charconv>

#include "schema/keyval.hpp"

namespace tidemark {

const char* const daemon_help =
    R"(Usage: tidemarkd [OPTION]...
Serves disk images over NBD and takes QMP, as qemu-storage-daemon does. Options are carried out in order.

  --blockdev DRIVER,node-name=NAME[,OPTION=VALUE]...   or a JSON object: add a block node
  --chardev socket,id=ID,path=PATH,server=on[,wait=off]   a socket for a monitor (also host=, port=)
  --monitor ID[,pretty=on]         QMP on a character device
  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT
  --export nbd,id=ID,node-name=NODE[,name=NAME][,writable=on]
           [,bitmaps.0=NAME][,allocation-depth=on]
           [,iothread=ID[,fixed-iothread=on]]   serve a node
  --object iothread,id=ID[,thread-pool-max=N]   a thread that exports can be served on
  --object throttle-group,id=ID,limits.iops-total=N   limits that nodes of the driver throttle share
  --pidfile PATH                   hold a lock on the file, and write the process id when all is served
  --daemonize                      go to the background once everything is served
  --end-patience SECONDS           when told to end, wait so long for storage of which nothing moves (default: 40)
  --aio io_uring|threads           how to talk to the kernel (default: io_uring where it is granted)
  --announce                       print the URIs of all exports when they are served
                                   (with --announce=json as JSON, and errors too)
  -V,--version                     print the version
  -h,--help                        print this

qmp-reference.md describes all options of nodes and exports, and all commands of QMP.
)";

namespace {

enum Option : int {
  blockdev = 256, chardev, monitor, nbd_server, block_export, object, pidfile, daemonize, end_patience, aio, announce, version, help
};

constexpr option long_options[] = {
    {"blockdev", required_argument, nullptr, Option::blockdev},
    {"chardev", required_argument, nullptr, Option::chardev},
    {"monitor", required_argument, nullptr, Option::monitor},
    {"nbd-server", required_argument, nullptr, Option::nbd_server},
    {"export", required_argument, nullptr, Option::block_export},
    {"object", required_argument, nullptr, Option::object},
    {"pidfile", required_argument, nullptr, Option::pidfile},
    {"daemonize", no_argument, nullptr, Option::daemonize},
    {"end-patience", required_argument, nullptr, Option::end_patience},
    {"aio", required_argument, nullptr, Option::aio},
    {"announce", optional_argument, nullptr, Option::announce},
    {"version", no_argument, nullptr, Option::version},
    {"help", no_argument, nullptr, Option::help},
    {nullptr, 0, nullptr, 0},
};

template <class T>
Result<> add_step(DaemonOptions& options, std::string_view name, const schema::KeyvalRules& rules) {
  auto value = schema::from_option<T>(optarg, rules);
  const std::string option = "--" + std::string(name) + " " + optarg;
  if (!value) return value.error().with_context(option);
  options.steps.push_back({option, *std::move(value)});
  return {};
}

Result<> take_aio(DaemonOptions& options, std::string name) {
  if (name != "io_uring" && name != "threads")
    return Error(Errc::invalid_argument, "--aio '" + name + "' is unknown; use io_uring or threads");
  options.aio = std::move(name);
  return {};
}

Result<> take_pidfile(DaemonOptions& options, std::string path) {
  if (path.empty()) return Error(Errc::invalid_argument, "--pidfile '': the path is empty");
  options.pidfile = std::move(path);
  return {};
}

Result<> take_end_patience(DaemonOptions& options, std::string_view text) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, options.end_patience);
  if (error == std::errc() && rest == end && options.end_patience != 0) return {};
  return Error(Errc::invalid_argument, "--end-patience '" + std::string(text) + "': use a number of seconds, at least 1");
}

Result<> take_announce(DaemonOptions& options, const char* form) {
  if (form && std::string_view(form) != "json")
    return Error(Errc::invalid_argument, "--announce '" + std::string(form) + "' is unknown; use json or nothing");
  options.announce = true;
  options.json = form != nullptr;
  return {};
}

Result<> take_option(DaemonOptions& options, int which) {
  switch (which) {
    case Option::blockdev: return add_step<schema::BlockdevOptions>(options, "blockdev", {"driver", false});
    case Option::chardev: return add_step<schema::ChardevOptions>(options, "chardev", {"backend", true});
    case Option::monitor: return add_step<schema::MonitorOptions>(options, "monitor", {"chardev", false});
    case Option::nbd_server: return add_step<schema::NbdServerOptions>(options, "nbd-server", {});
    case Option::block_export: return add_step<schema::BlockExportOptions>(options, "export", {"type", false});
    case Option::object: return add_step<schema::ObjectOptions>(options, "object", {"qom-type", false});
    case Option::pidfile: return take_pidfile(options, optarg);
    case Option::daemonize: options.daemonize = true; return {};
    case Option::end_patience: return take_end_patience(options, optarg);
    case Option::aio: return take_aio(options, optarg);
    case Option::announce: return take_announce(options, optarg);
    case 'V':
    case Option::version: options.show_version = true; return {};
    case 'h':
    case Option::help: options.show_help = true; return {};
    default: TM_ASSERT(false); return {};
  }
}

}  // namespace

Result<DaemonOptions> parse_daemon_options(int argc, char** argv) {
  DaemonOptions options;
  optind = 1;
  opterr = 0;
  for (int which; (which = getopt_long(argc, argv, ":hV", long_options, nullptr)) != -1;) {
    if (which == '?' || which == ':') {
      const char* what = which == ':' ? "' needs a value" : "' is unknown, ambiguous or takes no value";
      return Error(Errc::invalid_argument, "option '" + std::string(argv[optind - 1]) + what + "; see tidemarkd --help");
    }
    if (auto taken = take_option(options, which); !taken) return taken.error();
  }
  if (optind < argc)
    return Error(Errc::invalid_argument, "unexpected argument '" + std::string(argv[optind]) + "'; see tidemarkd --help");
  return options;
}

}  // namespace tidemark
