#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>

#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "base/units.hpp"
#include "schema/description.hpp"
#include "schema/keyval.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

// In a word of its own a comma is only a comma; in keyval it is written twice.
std::string keyval_of(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ',';
    for (const char c : word) text.append(c == ',' ? 2 : 1, c);
  }
  return text;
}

// KEY=VALUE words become what the schema says of the command's arguments; nothing is guessed from their text.
Result<Json> parse_arguments(const std::string& command, const std::vector<std::string>& words) {
  if (words.empty()) return Json::object();
  if (words.size() == 1 && words[0].starts_with("{")) return parse_json(words[0]);
  for (const std::string& word : words)
    if (word.find('=') == std::string::npos || word.starts_with("="))
      return Error(Errc::invalid_argument, fmt::format("'{}' is neither KEY=VALUE nor a JSON object", word));
  const schema::CommandDescription* known = schema::find_command(command);
  if (!known)
    return Error(Errc::command_not_found,
                 fmt::format("'{}' is no command that is known here; give its arguments as a JSON object", command));
  auto tree = schema::parse_keyval(keyval_of(words));
  if (!tree) return tree.error();
  return known->normalise(*tree, schema::Spelling::keyval);
}

Task<> print_events(QmpClient& client) {
  while (client.has_event()) print_line(tidemark::to_text(co_await client.next_event()));
}

constexpr const char* blanks = " \t";

// One command a line, which is not blank: a JSON object, or NAME [KEY=VALUE ...].
Result<Json> parse_line(const std::string& line) {
  if (line[line.find_first_not_of(blanks)] == '{') return parse_json(line);
  std::vector<std::string> words;
  for (std::size_t at = 0; (at = line.find_first_not_of(blanks, at)) != std::string::npos;) {
    const auto end = std::min(line.find_first_of(blanks, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  auto arguments = parse_arguments(words[0], {words.begin() + 1, words.end()});
  if (!arguments) return arguments.error();
  return Json::object({{"execute", words[0]}, {"arguments", *std::move(arguments)}});
}

// Standard input by lines, on a worker; looks up now and then whether it was interrupted.
class Lines {
 public:
  explicit Lines(const Context& context) : context_(context) {}

  // The next line without its end; nothing after the last.
  Task<std::optional<std::string>> next() {
    for (;;) {
      const auto at = read_.find('\n', searched_);
      searched_ = at == std::string::npos ? read_.size() : 0;
      if (at != std::string::npos || ended_) {
        if (read_.empty()) co_return std::nullopt;
        std::string line = read_.substr(0, at);
        read_.erase(0, at == std::string::npos ? at : at + 1);
        if (line.ends_with('\r')) line.pop_back();
        co_return std::move(line);
      }
      if (read_.size() > line_max) co_await Error(Errc::invalid_format, "standard input: a line has no end");
      co_await unwrap(context_.check_interrupted());
      auto more = [this] { read_more(); };
      co_await context_.reactor.offload(more);
    }
  }

 private:
  static constexpr std::size_t line_max = 64 * MiB;
  static constexpr int look_up_ms = 100;

  void read_more() {
    pollfd waited{STDIN_FILENO, POLLIN, 0};
    if (::poll(&waited, 1, look_up_ms) <= 0) return;
    char buffer[16384];
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n > 0) read_.append(buffer, static_cast<std::size_t>(n));
    else if (n == 0 || (errno != EINTR && errno != EAGAIN)) ended_ = true;
  }

  const Context& context_;
  std::string read_;
  std::size_t searched_ = 0;         // no line ends before it
  bool ended_ = false;
};

Task<Exit> interact(const Context& context, QmpClient& client) {
  Exit outcome = Exit::ok;
  for (Lines lines(context);;) {
    const std::optional<std::string> given = co_await lines.next();
    if (!given) co_return outcome;
    const std::string& line = *given;
    if (line.find_first_not_of(blanks) == std::string::npos) {
      co_await print_events(client);
      continue;
    }
    auto command = parse_line(line);
    if (!command) {
      print_error(command.error(), context.json);
      outcome = Exit::failed;
      continue;
    }
    const Json answer = co_await client.execute_raw(*std::move(command));
    co_await print_events(client);
    print_line(tidemark::to_text(answer));
    if (answer.find("error")) outcome = Exit::failed;
    if (std::ferror(stdout)) co_return Exit::failed;            // nobody would see what comes
  }
}

Result<Json> parse_command(const QmpOptions& options) {
  if (options.command.starts_with("{"))
    return Error(Errc::invalid_argument, "a command's name comes first; a whole command as JSON goes to standard input");
  auto arguments = parse_arguments(options.command, options.arguments);
  if (arguments && !arguments->is_object()) return Error(Errc::invalid_argument, "a command's arguments are a JSON object");
  return arguments;
}

Task<Exit> run(const Context& context, QmpClient& client, QmpOptions options) {
  if (options.command.empty()) co_return co_await interact(context, client);
  auto arguments = parse_command(options);
  if (!arguments) {
    print_error(arguments.error(), context.json);
    co_return Exit::usage;
  }
  print_json(co_await client.execute(options.command, *std::move(arguments)));
  co_return Exit::ok;
}

}  // namespace

Task<Exit> qmp(const Context& context, QmpOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_return co_await finally(run(context, client, std::move(options)), close);
}

}  // namespace tidemark::cli
