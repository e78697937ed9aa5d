// What every command of `tidemark` has: the reactor, how to print, and whether Ctrl-C was pressed.
#pragma once

#include <string>

#include "base/json.hpp"
#include "control/qmp/qmp_client.hpp"
#include "io/reactor.hpp"

namespace tidemark::cli {

// Exit codes, documented in --help and the manual page.
enum class Exit : int { ok = 0, failed = 1, usage = 2, damaged = 3, interrupted = 130 };

struct Context {
  Reactor& reactor;
  CancelToken interrupted;           // asked by Ctrl-C and SIGTERM
  bool json = false;                 // machine-readable output only
  bool show_progress = false;        // stderr is a terminal, and not --json, --quiet
  std::string qmp_socket;

  Task<QmpClient> connect() const;     // commands end when interrupted, unless the client sees them through
  Result<> check_interrupted() const;
};

// One line of result per command with --json, through here.
void print_json(const Json& value);
void print_line(const std::string& line);         // printable(), whatever it holds
void print_lines(const std::string& lines);        // made of what is printable
// One line on standard error; with --json an object: {"error": {"kind": "busy", "message": "..."}}
void print_error(const Error& error, bool json);

}  // namespace tidemark::cli
