// JsonStream: finds where values end by brackets and quotes alone; parse_json judges each.
#include <algorithm>

#include "base/json.hpp"
#include "base/json_chars.hpp"

namespace tidemark {
namespace {

using namespace json_chars;

bool is_never_utf8(char c) noexcept { return static_cast<unsigned char>(c) >= 0xfe; }

Error broken_byte(char c) {
  static constexpr char hex[] = "0123456789abcdef";
  const auto byte = static_cast<unsigned char>(c);
  std::string message = "JSON parse error, stray ";
  if (byte > ' ' && byte < 0x7f)
    message += std::string("'") + c + "'";
  else
    message += std::string("byte 0x") + hex[byte >> 4] + hex[byte & 15];
  return Error(Errc::invalid_format, std::move(message));
}

}  // namespace

void JsonStream::feed(std::string_view bytes) {
  input_.erase(0, at_);
  at_ = 0;
  input_ += bytes;
}

std::optional<Result<Json>> JsonStream::next() {
  while (at_ < input_.size()) {
    // The long part of long values at once, as far as the limits let it.
    if (state_ == State::quoted) {
      const std::size_t plain = plain_length(std::string_view(input_).substr(at_), quote_);
      const std::size_t kept = too_large_ ? plain : std::min(plain, limits_.size_max - std::min(limits_.size_max, value_.size()));
      if (!too_large_) value_.append(input_, at_, kept);
      at_ += kept;
      if (at_ == input_.size()) break;
    }
    bool consumed = true;
    Outcome outcome = step(input_[at_], consumed);
    if (consumed) ++at_;
    if (outcome) return outcome;
  }
  return {};
}

JsonStream::Outcome JsonStream::step(char c, bool& consumed) {
  switch (state_) {
    case State::between: return between(c);
    case State::quoted:
    case State::escape: return quoted(c);
    case State::word:
      if (is_word(c)) return keep(c);
      state_ = State::between;
      consumed = false;
      return finish_if_balanced();
    case State::recovering:
      if ((is_control(c) && c != '\t') || is_never_utf8(c) || is_structural(c)) {
        state_ = State::between;
        consumed = false;
      }
      return {};
  }
  return {};
}

JsonStream::Outcome JsonStream::between(char c) {
  if (is_space(c)) return value_.empty() ? Outcome() : keep(c);
  if (is_word(c) || is_quote(c)) {
    state_ = is_quote(c) ? State::quoted : State::word;
    quote_ = c;
    return keep(c);
  }
  if (!is_structural(c)) return broken(c);
  bool unbalanced = false;
  if (c == '{') ++braces_;
  if (c == '[') ++brackets_;
  if (c == '}') unbalanced = braces_ == 0 || (--braces_, false);
  if (c == ']') unbalanced = brackets_ == 0 || (--brackets_, false);
  if (unbalanced) braces_ = brackets_ = 0;  // the value ends here; it will not parse
  return keep_last(c);
}

JsonStream::Outcome JsonStream::quoted(char c) {
  if (is_control(c) || is_never_utf8(c)) return broken(c);
  if (state_ == State::quoted && c == quote_) {
    state_ = State::between;
    return keep_last(c);
  }
  state_ = state_ == State::quoted && c == '\\' ? State::escape : State::quoted;
  return keep(c);
}

// Adds a byte to the value under way, within the limits.
JsonStream::Outcome JsonStream::keep(char c) {
  if (too_large_) return {};
  value_ += c;
  const bool deep = braces_ + brackets_ > limits_.depth_max;
  if (!deep && value_.size() <= limits_.size_max) return {};
  too_large_ = true;
  value_.clear();
  value_.shrink_to_fit();
  value_ += c;  // not empty: a value is under way
  return Error(Errc::invalid_format,
               deep ? "JSON nesting depth limit exceeded" : "JSON value size limit exceeded");
}

// The same for a byte that may end the value.
JsonStream::Outcome JsonStream::keep_last(char c) {
  Outcome broken_limit = keep(c);
  Outcome finished = finish_if_balanced();
  return broken_limit ? std::move(broken_limit) : std::move(finished);
}

JsonStream::Outcome JsonStream::finish_if_balanced() {
  if (braces_ + brackets_ != 0) return {};
  const bool skipped = too_large_;
  const std::string text = std::move(value_);
  reset();
  if (skipped) return {};
  return parse_json(text, limits_);
}

JsonStream::Outcome JsonStream::broken(char c) {
  const bool skipped = too_large_;
  reset();
  state_ = State::recovering;
  if (skipped) return {};
  return broken_byte(c);
}

void JsonStream::reset() {
  value_.clear();
  braces_ = brackets_ = 0;
  state_ = State::between;
  too_large_ = false;
}

}  // namespace tidemark
