#include "schema/text_numbers.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/json_chars.hpp"

namespace tidemark::schema {
namespace {

template <class T>
bool convert(std::string_view text, T& out, int base) noexcept {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) return false;
  out = value;
  return true;
}

bool is_hex(std::string_view text) noexcept {
  return text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

// What C's functions take before the digits: white space, then one sign.
bool take_sign(std::string_view& text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(" \t\n\v\f\r"), text.size()));
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  return negative;
}

bool parse_magnitude(std::string_view text, std::uint64_t& out) noexcept {
  if (is_hex(text)) return convert(text.substr(2), out, 16);
  return convert(text, out, text.size() > 1 && text[0] == '0' ? 8 : 10);
}

// The shift that a suffix of sizes stands for, or -1.
int shift_of(char suffix) noexcept {
  constexpr std::string_view upper = "BKMGTPE", lower = "bkmgtpe";
  for (std::size_t i = 0; i < upper.size(); ++i)
    if (suffix == upper[i] || suffix == lower[i]) return static_cast<int>(10 * i);
  return -1;
}

// digits[.digits], times 2^shift, exact and below 2^64.  Only what has a suffix may have a
// fraction.
bool scaled(std::string_view text, int shift, std::uint64_t& out) noexcept {
  const std::size_t point = text.find('.');
  std::uint64_t whole = 0;
  if (!convert(text.substr(0, point), whole, 10)) return false;
  if (shift != 0 && whole >> (64 - shift) != 0) return false;
  whole <<= shift;
  if (point == text.npos) {
    out = whole;
    return true;
  }
  const std::string_view digits = text.substr(point + 1, 18);
  std::uint64_t fraction = 0;
  if (shift == 0 || digits.size() + point + 1 != text.size() || !convert(digits, fraction, 10))
    return false;
  unsigned __int128 scale = 1;
  for (std::size_t i = 0; i < digits.size(); ++i) scale *= 10;
  const auto part =
      static_cast<std::uint64_t>((static_cast<unsigned __int128>(fraction) << shift) / scale);
  return !__builtin_add_overflow(whole, part, &out);
}

}  // namespace

bool parse_uint(std::string_view text, std::uint64_t& out) noexcept {
  const bool negative = take_sign(text);
  std::uint64_t magnitude = 0;
  if (!parse_magnitude(text, magnitude)) return false;
  out = negative ? 0 - magnitude : magnitude;
  return true;
}

bool parse_int(std::string_view text, std::int64_t& out) noexcept {
  const bool negative = take_sign(text);
  std::uint64_t magnitude = 0;
  if (!parse_magnitude(text, magnitude)) return false;
  const auto limit = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (magnitude > limit + (negative ? 1 : 0)) return false;
  out = static_cast<std::int64_t>(negative ? 0 - magnitude : magnitude);
  return true;
}

bool parse_real(std::string_view text, double& out) noexcept {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
    return false;
  out = value;
  return true;
}

bool parse_size(std::string_view text, std::uint64_t& out) noexcept {
  if (text.empty()) return false;
  if (is_hex(text)) return convert(text.substr(2), out, 16);
  if (json_chars::is_digit(text.back())) return scaled(text, 0, out);
  const int shift = shift_of(text.back());
  return shift >= 0 && scaled(text.substr(0, text.size() - 1), shift, out);
}

}  // namespace tidemark::schema
