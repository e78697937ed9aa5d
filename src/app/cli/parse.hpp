// What main.cpp and the verbs with options of their own share in reading the command line.  Only what parses includes
// this: CLI11 is slow to compile.
#pragma once

#include <functional>
#include <string>

#include <CLI/CLI.hpp>

#include "app/cli/context.hpp"
#include "app/cli/quiesce.hpp"

namespace tidemark::cli {

using Command = std::function<Task<Exit>(const Context&)>;

struct Options {
  bool json = false, quiet = false, progress = false;
  std::string qmp_socket, aio;
  Command command;                       // of the subcommand that was given
  std::function<Exit()> immediate;       // serve: needs no reactor
};

// Turns "1.5G" into a number of bytes.
CLI::Validator size_check();
CLI::Validator not_empty();

// CLI11's, whose errors it throws, but that every word is what it says: CLI11 takes a word "[A,B]" for two where several are welcome.
void parse_words(CLI::App& app, int argc, char** argv);

// `--quiesce` and `--quiesce-timeout`; `what` is taken meanwhile.
void add_quiesce(CLI::App* command, QuiesceOptions& quiesce, const std::string& what);

// `tidemark image` and its verbs.
void add_image(CLI::App& app, Options& options);
// `tidemark chain` and its verbs.
void add_chain(CLI::App& app, Options& options);
// `tidemark snapshot` and its verbs.
void add_snapshot(CLI::App& app, Options& options);

}  // namespace tidemark::cli
