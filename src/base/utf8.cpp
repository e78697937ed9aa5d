#include "base/utf8.hpp"

#include "base/assert.hpp"

namespace tidemark {
namespace {

struct Lead {
  std::size_t length;  // of the whole sequence; 0: cannot lead
  std::int32_t bits;   // of the code point, from this byte
  std::int32_t least;  // code point that needs this length
};

Lead lead_of(std::uint8_t byte) noexcept {
  if (byte < 0x80) return {1, byte, 0};
  if (byte < 0xc0) return {0, 0, 0};
  if (byte < 0xe0) return {2, byte & 0x1f, 0x80};
  if (byte < 0xf0) return {3, byte & 0x0f, 0x800};
  if (byte < 0xf8) return {4, byte & 0x07, 0x10000};
  return {0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text) noexcept {
  const Lead lead = lead_of(static_cast<std::uint8_t>(text[0]));
  if (lead.length == 0) return {-1, 1};
  std::int32_t code = lead.bits;
  std::size_t at = 1;
  for (; at < lead.length; ++at) {
    const auto byte = at < text.size() ? static_cast<std::uint8_t>(text[at]) : std::uint8_t{0};
    if ((byte & 0xc0) != 0x80) return {-1, at};
    code = code << 6 | (byte & 0x3f);
  }
  const bool shortest = code >= lead.least || (code == 0 && lead.length == 2);
  return {shortest && is_unicode_character(code) ? code : -1, at};
}

bool is_unicode_character(std::int32_t code) noexcept {
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  const bool reserved = (code >= 0xfdd0 && code <= 0xfdef) || (code & 0xfffe) == 0xfffe;
  return code >= 0 && code <= 0x10ffff && !surrogate && !reserved;
}

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const Utf8Char next = decode_utf8(text);
    if (next.code < 0) return false;
    text.remove_prefix(next.length);
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    const Utf8Char next = decode_utf8(text);
    const std::string_view bytes = text.substr(0, next.length);
    text.remove_prefix(bytes.size());
    if (next.code >= 0x20 && (next.code < 0x7f || next.code >= 0xa0)) {
      shown += bytes;
      continue;
    }
    for (const char c : bytes) shown.append("\\x").append(1, digits[(c >> 4) & 15]).append(1, digits[c & 15]);
  }
  return shown;
}

void append_utf8(std::string& to, std::int32_t code) {
  TM_ASSERT(is_unicode_character(code));
  const auto tail = [&](int shift) { to += static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code > 0 && code < 0x80) {
    to += static_cast<char>(code);
  } else if (code < 0x800) {  // U+0000 too
    to += static_cast<char>(0xc0 | code >> 6);
    tail(0);
  } else if (code < 0x10000) {
    to += static_cast<char>(0xe0 | code >> 12);
    tail(6);
    tail(0);
  } else {
    to += static_cast<char>(0xf0 | code >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace tidemark
