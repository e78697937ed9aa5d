#include "app/cli/parse.hpp"

#include <fmt/format.h>

#include "app/cli/text.hpp"

namespace tidemark::cli {

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

}  // namespace tidemark::cli
