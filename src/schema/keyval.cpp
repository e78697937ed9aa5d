// parse_keyval: puts each value at the end of its path in a tree of objects, then turns the objects
// whose keys are numbers into arrays.
#include "schema/keyval.hpp"

#include "base/json_chars.hpp"
#include "schema/text_numbers.hpp"

namespace tidemark::schema {
namespace {

constexpr std::size_t fragment_max = 127;  // bytes, as in QEMU
constexpr std::size_t depth_max = 256;

Error invalid(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

bool is_index(std::string_view fragment) noexcept {
  for (char c : fragment)
    if (!json_chars::is_digit(c)) return false;
  return !fragment.empty();
}

bool is_name(std::string_view fragment) noexcept {
  for (char c : fragment)
    if (!json_chars::is_word(c) || c == '.' || c == '+') return false;
  return !fragment.empty() && !json_chars::is_digit(fragment[0]) && fragment[0] != '-';
}

class KeyvalParser {
 public:
  KeyvalParser(std::string_view text, const KeyvalRules& rules) : text_(text), rules_(rules) {}

  Result<Json> run() {
    for (bool first = true; at_ < text_.size(); first = false)
      if (Result<> done = parse_one(first); !done) return done.error();
    return make_arrays(std::move(root_), "");
  }

 private:
  Result<> parse_one(bool first);
  std::string take_value();
  Result<> put(std::string_view key, std::string value);
  Result<> check_fragment(std::string_view key, std::string_view fragment, bool first) const;
  static Result<Json> make_arrays(Json value, const std::string& path);
  static Result<Json> array_of(Json::Object members, const std::string& path);

  std::string_view text_;
  const KeyvalRules& rules_;
  std::size_t at_ = 0;
  Json root_ = Json::object();
};

Result<> KeyvalParser::parse_one(bool first) {
  const std::size_t end = std::min(text_.find_first_of("=,", at_), text_.size());
  const std::string_view key = text_.substr(at_, end - at_);
  if (end < text_.size() && text_[end] == '=') {
    at_ = end + 1;
    return put(key, take_value());
  }
  if (first && !rules_.implied_key.empty() && !key.empty())
    return put(rules_.implied_key, take_value());
  at_ = std::min(end + 1, text_.size());
  if (!rules_.bare_flags || !is_name(key)) {
    if (key.empty()) return invalid("Invalid parameter ''");
    return invalid("Expected '=' after parameter '" + std::string(key) + "'");
  }
  const bool negated = key.starts_with("no");
  return put(negated ? key.substr(2) : key, negated ? "off" : "on");
}

// Up to the next single comma, which is passed.
std::string KeyvalParser::take_value() {
  std::string value;
  while (at_ < text_.size()) {
    const char c = text_[at_++];
    if (c == ',') {
      if (at_ == text_.size() || text_[at_] != ',') break;
      ++at_;
    }
    value += c;
  }
  return value;
}

Result<> KeyvalParser::check_fragment(std::string_view key, std::string_view fragment,
                                      bool first) const {
  if (!is_name(fragment) && (first || !is_index(fragment)))
    return invalid("Invalid parameter '" + std::string(key) + "'");
  if (fragment.size() > fragment_max)
    return invalid("Parameter '" + std::string(fragment.substr(0, fragment_max)) +
                   "...' is too long");
  return {};
}

Result<> KeyvalParser::put(std::string_view key, std::string value) {
  Json* object = &root_;
  std::size_t depth = 0;
  for (std::size_t from = 0;;) {
    const std::size_t point = std::min(key.find('.', from), key.size());
    const std::string_view fragment = key.substr(from, point - from);
    if (Result<> good = check_fragment(key, fragment, from == 0); !good) return good;
    if (++depth > depth_max)
      return invalid("Parameter '" + std::string(key.substr(0, 40)) + "...' is too deep");
    Json* present = object->find(fragment);
    const bool leaf = point == key.size();
    if (present && present->is_string() != leaf)
      return invalid("Parameters '" + std::string(key.substr(0, point)) +
                     ".*' used inconsistently");
    if (leaf) {
      object->set(fragment, std::move(value));
      return {};
    }
    object = present ? present : &object->set(fragment, Json::object());
    from = point + 1;
  }
}

Result<Json> KeyvalParser::make_arrays(Json value, const std::string& path) {
  if (!value.is_object()) return value;
  std::size_t indexes = 0;
  for (Json::Member& member : value.as_object()) {
    if (is_index(member.first)) ++indexes;
    Result<Json> made = make_arrays(std::move(member.second), path + member.first + ".");
    if (!made) return made;
    member.second = *std::move(made);
  }
  if (indexes == 0) return value;
  if (indexes != value.as_object().size())
    return invalid("Parameters '" + path + "*' used inconsistently");
  return array_of(std::move(value.as_object()), path);
}

Result<Json> KeyvalParser::array_of(Json::Object members, const std::string& path) {
  Json::Array items(members.size());
  std::vector<bool> present(members.size());
  for (Json::Member& member : members) {
    std::uint64_t index = 0;
    const std::string_view digits =
        std::string_view(member.first)
            .substr(std::min(member.first.find_first_not_of('0'), member.first.size() - 1));
    if (!parse_uint(digits, index) || index >= items.size()) continue;  // leaves a gap below it
    items[index] = std::move(member.second);
    present[index] = true;
  }
  for (std::size_t i = 0; i < items.size(); ++i)
    if (!present[i]) return invalid("Parameter '" + path + std::to_string(i) + "' missing");
  return Json(std::move(items));
}

}  // namespace

Result<Json> parse_keyval(std::string_view text, const KeyvalRules& rules) {
  return KeyvalParser(text, rules).run();
}

}  // namespace tidemark::schema
