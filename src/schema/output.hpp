// From the types of the schema to JSON: members in the schema's order; an optional member that is
// absent, or has its default, is left out.
//
// The generated part is one write_members() for each struct and union, and one to_json() for each
// alternate.
#pragma once

#include <string>
#include <type_traits>

#include "base/json.hpp"
#include "schema/box.hpp"
#include "schema/input.hpp"

namespace tidemark::schema {

template <class E>
requires std::is_enum_v<E> std::string_view to_string(E value) {
  const std::span<const std::string_view> names = names_of(value);
  const auto index = static_cast<std::size_t>(value);
  TM_ASSERT(index < names.size());
  return names[index];
}

template <class T>
concept WritesMembers = requires(Json& out, const T& in) {
  write_members(out, in);
};

inline Json to_json(const Json& value) { return value; }
inline Json to_json(const Nothing&) { return Json::object(); }
inline Json to_json(const Size& value) { return Json(value.bytes); }

template <class T>
requires(std::is_arithmetic_v<T> || std::is_same_v<T, std::string> ||
         std::is_same_v<T, std::nullptr_t>) Json to_json(const T& value) {
  return Json(value);
}

template <class E>
requires std::is_enum_v<E> Json to_json(E value) { return Json(to_string(value)); }

template <WritesMembers T>
Json to_json(const T& value) {
  Json out = Json::object();
  write_members(out, value);
  return out;
}

template <class T>
Json to_json(const Box<T>& value) {
  return to_json(*value);
}

template <class T>
Json to_json(const std::vector<T>& values) {
  Json out = Json::array();
  for (const T& value : values) out.push_back(to_json(value));
  return out;
}

template <class T>
void put(Json& out, std::string_view name, const T& value) {
  out.as_object().emplace_back(std::string(name), to_json(value));
}

template <class T>
void put_present(Json& out, std::string_view name, const std::optional<T>& value) {
  if (value) put(out, name, *value);
}

template <class T>
void put_changed(Json& out, std::string_view name, const T& value,
                 const std::type_identity_t<T>& usual) {
  if (value != usual) put(out, name, value);
}

}  // namespace tidemark::schema
