#include <fmt/format.h>

#include <cstdio>

#include "app/cli/commands.hpp"
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

// One command a line: a JSON object, or NAME [KEY=VALUE ...].
Result<Json> parse_line(const std::string& line) {
  if (line.starts_with("{")) return parse_json(line);
  std::vector<std::string> words;
  for (std::size_t at = 0; (at = line.find_first_not_of(" \t", at)) != std::string::npos;) {
    const auto end = std::min(line.find_first_of(" \t", at), line.size());
    words.push_back(line.substr(at, end - at));
    at = end;
  }
  auto arguments = parse_arguments(words[0], {words.begin() + 1, words.end()});
  if (!arguments) return arguments.error();
  return Json::object({{"execute", words[0]}, {"arguments", *std::move(arguments)}});
}

Task<std::string> read_line(const Context& context, bool& end) {
  std::string line;
  auto read = [&line, &end] {
    char buffer[4096];
    end = true;
    while (std::fgets(buffer, sizeof buffer, stdin)) {
      end = false;
      line += buffer;
      if (line.ends_with('\n')) break;
    }
  };
  co_await context.reactor.offload(read);
  while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
  co_return std::move(line);
}

Task<Exit> interact(const Context& context, QmpClient& client) {
  Exit outcome = Exit::ok;
  for (bool end = false;;) {
    const std::string line = co_await read_line(context, end);
    if (end) co_return outcome;
    if (line.find_first_not_of(" \t") == std::string::npos) {
      co_await print_events(client);
      continue;
    }
    auto command = parse_line(line);
    if (!command) {
      print_error(command.error().message());
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

Task<Exit> run(const Context& context, QmpClient& client, QmpOptions options) {
  if (options.command.empty()) co_return co_await interact(context, client);
  Json arguments = co_await unwrap(parse_arguments(options.command, options.arguments));
  if (!arguments.is_object()) co_await Error(Errc::invalid_argument, "a command's arguments are a JSON object");
  print_json(co_await client.execute(options.command, std::move(arguments)));
  co_return Exit::ok;
}

}  // namespace

Task<Exit> qmp(const Context& context, QmpOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_return co_await finally(run(context, client, std::move(options)), close);
}

}  // namespace tidemark::cli
