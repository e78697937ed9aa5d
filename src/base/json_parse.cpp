// parse_json: recursive descent over text that is in memory.  Recursion is bound by depth_max,
// memory by tokens_max and size_max, time is linear (n log n in the members of one object).
#include <algorithm>
#include <charconv>

#include "base/json.hpp"
#include "base/json_chars.hpp"
#include "base/utf8.hpp"

namespace tidemark {
namespace {

using namespace json_chars;

// RFC 8259's grammar of numbers; from_chars alone takes more than that.
struct NumberForm {
  bool valid = false;
  bool integral = false;
};

NumberForm number_form(std::string_view word) noexcept {
  std::size_t at = 0;
  const auto peek = [&] { return at < word.size() ? word[at] : '\0'; };
  const auto digits = [&] {
    const std::size_t from = at;
    while (is_digit(peek())) ++at;
    return at - from;
  };
  if (peek() == '-') ++at;
  const bool leading_zero = peek() == '0';
  const std::size_t whole = digits();
  if (whole == 0 || (leading_zero && whole > 1)) return {};
  if (at == word.size()) return {true, true};
  if (peek() == '.') {
    ++at;
    if (digits() == 0) return {};
  }
  if (peek() == 'e' || peek() == 'E') {
    ++at;
    if (peek() == '+' || peek() == '-') ++at;
    if (digits() == 0) return {};
  }
  return {at == word.size(), false};
}

template <class T>
bool convert(std::string_view word, T& value) noexcept {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && end == word.data() + word.size();
}

// The value of four hexadecimal digits, or -1.
std::int32_t hex4(std::string_view text) noexcept {
  std::int32_t code = -1;
  if (text.size() < 4) return -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + 4, code, 16);
  return error == std::errc() && end == text.data() + 4 && code >= 0 && text[0] != '-' ? code : -1;
}

class Parser {
 public:
  Parser(std::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  Result<Json> run() {
    if (text_.size() > limits_.size_max)
      return Error(Errc::invalid_format, "JSON value size limit exceeded");
    Json value;
    skip_space();
    if (parse_value(value)) {
      skip_space();
      if (at_ == text_.size()) return value;
      fail("unexpected text after the value");
    }
    return Error(Errc::invalid_format, place() + message_);
  }

 private:
  char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() noexcept {
    while (is_space(peek())) ++at_;
  }
  bool take(char c) noexcept {
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    skip_space();
    return true;
  }
  bool fail(std::string message) {
    message_ = "JSON parse error, " + std::move(message);
    return false;
  }
  bool fail_at(std::size_t at, std::string message) {
    at_ = at;
    return fail(std::move(message));
  }
  bool count_token() {
    if (++tokens_ <= limits_.tokens_max) return true;
    message_ = "JSON token count limit exceeded";
    return false;
  }
  bool enter() {
    if (++depth_ <= limits_.depth_max) return true;
    message_ = "JSON nesting depth limit exceeded";
    return false;
  }

  std::string place() const {
    const std::string_view before = text_.substr(0, at_);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
    return "line " + std::to_string(line) + ", column " + std::to_string(at_ - line_start + 1) +
           ": ";
  }

  bool parse_value(Json& value);
  bool parse_array(Json& value);
  bool parse_object(Json& value);
  bool parse_key(Json::Object& members, std::vector<std::size_t>& places);
  bool check_unique(const Json::Object& members, const std::vector<std::size_t>& places);
  bool parse_word(Json& value);
  bool parse_number(std::string_view word, Json& value);
  bool parse_string(std::string& out);
  bool parse_escape(std::string& out);
  bool parse_unicode_escape(std::string& out, std::size_t start);

  std::string_view text_;
  const JsonLimits& limits_;
  std::size_t at_ = 0;
  std::size_t depth_ = 0;
  std::size_t tokens_ = 0;
  std::string message_;
};

bool Parser::parse_value(Json& value) {
  if (!count_token()) return false;
  switch (peek()) {
    case '{': return parse_object(value);
    case '[': return parse_array(value);
    case '"':
    case '\'': {
      std::string text;
      if (!parse_string(text)) return false;
      value = std::move(text);
      return true;
    }
    default: return parse_word(value);
  }
}

bool Parser::parse_array(Json& value) {
  if (!enter()) return false;
  Json::Array items;
  take('[');
  if (!take(']')) {
    do {
      if (!parse_value(items.emplace_back())) return false;
      skip_space();
    } while (take(','));
    if (peek() != ']') return fail("expected ',' or ']'");
    ++at_;
  }
  --depth_;
  value = std::move(items);
  return true;
}

bool Parser::parse_object(Json& value) {
  if (!enter()) return false;
  Json::Object members;
  std::vector<std::size_t> places;
  take('{');
  if (!take('}')) {
    do {
      if (!parse_key(members, places)) return false;
      if (!parse_value(members.back().second)) return false;
      skip_space();
    } while (take(','));
    if (peek() != '}') return fail("expected ',' or '}'");
    if (!check_unique(members, places)) return false;
    ++at_;
  }
  --depth_;
  value = std::move(members);
  return true;
}

bool Parser::parse_key(Json::Object& members, std::vector<std::size_t>& places) {
  if (!count_token()) return false;
  if (!is_quote(peek())) return fail("key is not a string in object");
  places.push_back(at_);
  std::string key;
  if (!parse_string(key)) return false;
  skip_space();
  if (!take(':')) return fail("expecting ':'");
  members.emplace_back(std::move(key), Json());
  return true;
}

bool Parser::check_unique(const Json::Object& members, const std::vector<std::size_t>& places) {
  std::vector<std::pair<std::string_view, std::size_t>> keys;
  keys.reserve(members.size());
  for (std::size_t i = 0; i < members.size(); ++i) keys.emplace_back(members[i].first, places[i]);
  std::sort(keys.begin(), keys.end());
  for (std::size_t i = 1; i < keys.size(); ++i)
    if (keys[i].first == keys[i - 1].first) return fail_at(keys[i].second, "duplicate key");
  return true;
}

bool Parser::parse_word(Json& value) {
  std::size_t end = at_;
  while (end < text_.size() && is_word(text_[end])) ++end;
  const std::string_view word = text_.substr(at_, end - at_);
  if (word.empty()) return fail("expecting value");
  if (word == "null")
    value = nullptr;
  else if (word == "true")
    value = true;
  else if (word == "false")
    value = false;
  else if (!is_digit(word[0]) && word[0] != '-')
    return fail("invalid keyword '" + std::string(word.substr(0, 40)) + "'");
  else if (!parse_number(word, value))
    return false;
  at_ = end;
  return true;
}

bool Parser::parse_number(std::string_view word, Json& value) {
  const NumberForm form = number_form(word);
  if (!form.valid) return fail("invalid number '" + std::string(word.substr(0, 40)) + "'");
  std::int64_t whole = 0;
  std::uint64_t natural = 0;
  double real = 0;
  if (form.integral && convert(word, whole))
    value = whole;
  else if (form.integral && convert(word, natural))
    value = natural;
  else if (convert(word, real))
    value = real;
  else
    return fail("number '" + std::string(word.substr(0, 40)) + "' is out of range");
  return true;
}

bool Parser::parse_string(std::string& out) {
  const char quote = text_[at_++];
  for (;;) {
    const std::size_t plain = plain_length(text_.substr(at_), quote);
    out.append(text_, at_, plain);
    at_ += plain;
    if (at_ == text_.size() || text_[at_] == quote) break;
    const char c = text_[at_];
    if (c == '\\') {
      if (!parse_escape(out)) return false;
    } else if (is_control(c)) {
      return fail("control character in string");
    } else {
      const Utf8Char decoded = decode_utf8(text_.substr(at_));
      if (decoded.code < 0) return fail("invalid UTF-8 sequence in string");
      out.append(text_, at_, decoded.length);
      at_ += decoded.length;
    }
  }
  if (at_ == text_.size()) return fail("unterminated string");
  ++at_;
  return true;
}

bool Parser::parse_escape(std::string& out) {
  static constexpr std::string_view escapes = "\"'\\/bfnrt";
  static constexpr std::string_view meanings = "\"'\\/\b\f\n\r\t";
  const std::size_t start = at_++;
  const char c = peek();
  if (c == 'u') {
    ++at_;
    return parse_unicode_escape(out, start);
  }
  const std::size_t index = at_ < text_.size() ? escapes.find(c) : std::string_view::npos;
  if (index == std::string_view::npos) return fail_at(start, "invalid escape sequence in string");
  out += meanings[index];
  ++at_;
  return true;
}

bool Parser::parse_unicode_escape(std::string& out, std::size_t start) {
  std::int32_t code = hex4(text_.substr(at_));
  at_ = std::min(at_ + 4, text_.size());
  if (code >= 0xd800 && code <= 0xdbff && text_.substr(at_, 2) == "\\u") {
    const std::int32_t trailing = hex4(text_.substr(at_ + 2));
    if (trailing >= 0xdc00 && trailing <= 0xdfff) {
      code = 0x10000 + ((code & 0x3ff) << 10 | (trailing & 0x3ff));
      at_ += 6;
    }
  }
  if (is_unicode_character(code)) {
    append_utf8(out, code);
    return true;
  }
  const std::string escape(text_.substr(start, at_ - start));
  const bool printable =
      std::all_of(escape.begin(), escape.end(), [](char c) { return c > ' ' && c < 127; });
  return fail_at(start, (printable ? escape : "\\u") + " is not a valid Unicode character");
}

}  // namespace

Result<Json> parse_json(std::string_view text, const JsonLimits& limits) {
  return Parser(text, limits).run();
}

}  // namespace tidemark
