// Modified UTF-8, one code point at a time: UTF-8 in which U+0000 is written c0 80 and nothing else
// is longer than it must be.  Surrogates and non-characters (U+FDD0..U+FDEF, U+xxFFFE, U+xxFFFF)
// are invalid, as QEMU has it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tidemark {

struct Utf8Char {
  std::int32_t code = -1;  // -1: invalid
  std::size_t length = 0;  // bytes taken, at least 1
};

// The first code point of `text`, which is not empty.
Utf8Char decode_utf8(std::string_view text) noexcept;

// Whether all of it can be decoded.
bool is_utf8(std::string_view text) noexcept;

bool is_unicode_character(std::int32_t code) noexcept;

// For people: control characters and what is no UTF-8 as \xNN, byte by byte, so that text of any origin is one line and tells a
// terminal nothing.
std::string printable(std::string_view text);

// Appends a code point that is_unicode_character().
void append_utf8(std::string& to, std::int32_t code);

}  // namespace tidemark
