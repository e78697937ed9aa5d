// Members of what a daemon answers, with a default where one is missing or is something else: answers
// come from programs of any version.
#pragma once

#include <string>

#include "base/json.hpp"

namespace tidemark::cli {

inline std::string text(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value && value->is_string() ? value->as_string() : std::string();
}

inline bool flag(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value && value->is_bool() && value->as_bool();
}

inline std::uint64_t number(const Json& object, std::string_view key) {
  std::uint64_t n = 0;
  if (const Json* value = object.find(key)) (void)value->to_uint64(n);
  return n;
}

// The list's first object whose `key` is `value`.
inline const Json* find_by(const Json& list, std::string_view key, std::string_view value) {
  if (!list.is_array()) return nullptr;
  for (const Json& item : list.as_array())
    if (text(item, key) == value) return &item;
  return nullptr;
}

// A list's items; nothing when the answer is no list.
inline const Json::Array& items(const Json& list) {
  static const Json::Array none;
  return list.is_array() ? list.as_array() : none;
}

}  // namespace tidemark::cli
