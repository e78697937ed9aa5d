// The command line of tidemarkd: qemu-storage-daemon's options, carried out in the order given.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "base/error.hpp"
#include "schema/export.hpp"
#include "schema/node.hpp"
#include "schema/object.hpp"
#include "schema/options.hpp"

namespace tidemark {

using DaemonAction = std::variant<schema::ChardevOptions, schema::MonitorOptions, schema::BlockdevOptions,
                                  schema::NbdServerOptions, schema::BlockExportOptions, schema::ObjectOptions>;

struct DaemonStep {
  std::string option;                // as it was given, for errors
  DaemonAction action;
};

struct DaemonOptions {
  std::vector<DaemonStep> steps;
  std::string pidfile;
  std::string aio;                   // "", "io_uring", "threads"
  unsigned end_patience = 40;        // seconds, see Ending: twice that is less than systemd waits
  bool daemonize = false;
  bool announce = false;             // print where clients connect once everything is served
  bool json = false;                 // print that, and errors, as JSON
  bool show_help = false, show_version = false;
};

// Errors name the option: "--blockdev driver=x: Parameter 'driver' does not accept value 'x'".
Result<DaemonOptions> parse_daemon_options(int argc, char** argv);

extern const char* const daemon_help;

}  // namespace tidemark
