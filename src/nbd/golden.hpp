// For tests: bytes written as hexadecimal text, and arbitrary protocol strings.
#pragma once

#include <rapidcheck.h>

#include <string>
#include <vector>

#include "base/bytes.hpp"

namespace tidemark::nbd {

// "4e42 444d": blanks are for the reader.
inline std::vector<std::byte> hex(std::string_view text) {
  std::string digits;
  for (char c : text)
    if (c != ' ') digits += c;
  std::vector<std::byte> bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
    bytes.push_back(static_cast<std::byte>(std::stoul(digits.substr(i, 2), nullptr, 16)));
  return bytes;
}

inline rc::Gen<std::string> arbitrary_name() {
  return rc::gen::container<std::string>(rc::gen::inRange('a', 'z'));
}

}  // namespace tidemark::nbd
