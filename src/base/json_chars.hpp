// The characters of JSON's tokens, for the parser and the stream that cuts its input.
#pragma once

#include <string_view>

namespace tidemark::json_chars {

constexpr bool is_space(char c) noexcept { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
constexpr bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }
constexpr bool is_quote(char c) noexcept { return c == '"' || c == '\''; }
constexpr bool is_control(char c) noexcept { return static_cast<unsigned char>(c) < 0x20; }
constexpr bool is_structural(char c) noexcept {
  return c == '{' || c == '}' || c == '[' || c == ']' || c == ':' || c == ',';
}
// Of numbers and names, right or wrong.
constexpr bool is_word(char c) noexcept {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '+' ||
         c == '-' || c == '.';
}

// How many bytes stand for themselves in a string of that quote, up to what takes a closer look.
inline std::size_t plain_length(std::string_view text, char quote) noexcept {
  std::size_t n = 0;
  while (n < text.size() && text[n] >= ' ' && text[n] < 0x7f && text[n] != '\\' && text[n] != quote) ++n;
  return n;
}

}  // namespace tidemark::json_chars
