// What a server says for people, fit for one line of a message.
#pragma once

#include <string>

#include "base/bytes.hpp"

namespace tidemark {

inline std::string nbd_text(Bytes said) {
  constexpr std::size_t text_max = 200;
  std::string text(as_text(said.first(said.size() < text_max ? said.size() : text_max)));
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

}  // namespace tidemark
