#include "app/cli/parse.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "app/cli/text.hpp"

namespace tidemark::cli {
namespace {

// "[...]", with spaces before it or not: with one more CLI11 leaves it alone, and each option takes that away again.
bool is_bracketed(std::string_view word) {
  word.remove_prefix(std::min(word.find_first_not_of(' '), word.size()));
  return word.starts_with('[') && word.ends_with(']');
}

std::string with_space(std::string word) {
  const std::size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;       // npos + 1 is 0
  if (is_bracketed(std::string_view(word).substr(value))) word.insert(value, 1, ' ');
  return word;
}

std::string take_space_away(std::string& value) {
  if (value.starts_with(' ') && is_bracketed(value)) value.erase(0, 1);
  return {};
}

void take_spaces_away(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) option->transform(CLI::Validator(take_space_away, ""));
  for (CLI::App* command : app.get_subcommands({})) take_spaces_away(*command);
}

}  // namespace

void parse_words(CLI::App& app, int argc, char** argv) {
  take_spaces_away(app);
  std::vector<std::string> words;                // CLI11 wants the last one first
  for (int n = argc - 1; n > 0; --n) words.push_back(with_space(argv[n]));
  app.parse(std::move(words));
}

CLI::Validator size_check() {
  return CLI::Validator([](std::string& text) {
    std::uint64_t bytes = 0;
    if (!parse_size(text, bytes)) return fmt::format("'{}' is no size; write for instance 512K or 1.5G", text);
    text = std::to_string(bytes);
    return std::string();
  }, "SIZE");
}

CLI::Validator not_empty() {
  return CLI::Validator([](std::string& text) { return text.empty() ? std::string("is empty") : std::string(); }, "");
}

void add_quiesce(CLI::App* command, QuiesceOptions& quiesce, const std::string& what) {
  command->add_option("--quiesce", quiesce.command, "run this command with 'freeze' before and 'thaw' after")->type_name("COMMAND")
      ->check(not_empty());
  command->add_option("--quiesce-timeout", quiesce.timeout, fmt::format("how long each of freezing, {} and thawing may take", what))
      ->type_name("SECONDS")->check(CLI::Range(std::uint64_t{1}, std::uint64_t{86400}))->capture_default_str();
}

}  // namespace tidemark::cli
