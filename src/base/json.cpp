// Json's members that look at the value.  Lookup is linear: objects of QMP have few members, and
// what a client sends is looked up a schema's worth of times at most.
#include "base/json.hpp"

#include <algorithm>

namespace tidemark {

double Json::as_double() const {
  if (const auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*value);
  return get<double>();
}

bool Json::to_int64(std::int64_t& out) const noexcept {
  const auto* value = std::get_if<std::int64_t>(&value_);
  if (value) out = *value;
  return value;
}

bool Json::to_uint64(std::uint64_t& out) const noexcept {
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) {
    out = *value;
    return true;
  }
  const auto* value = std::get_if<std::int64_t>(&value_);
  if (!value || *value < 0) return false;
  out = static_cast<std::uint64_t>(*value);
  return true;
}

const Json* Json::find(std::string_view key) const noexcept {
  const auto* members = std::get_if<Object>(&value_);
  if (!members) return nullptr;
  for (const Member& member : *members)
    if (member.first == key) return &member.second;
  return nullptr;
}

Json* Json::find(std::string_view key) noexcept {
  return const_cast<Json*>(std::as_const(*this).find(key));
}

Json& Json::set(std::string_view key, Json value) {
  if (Json* present = find(key)) return *present = std::move(value);
  return as_object().emplace_back(std::string(key), std::move(value)).second;
}

bool Json::remove(std::string_view key) {
  Object& members = as_object();
  const auto found = std::find_if(members.begin(), members.end(),
                                  [&](const Member& member) { return member.first == key; });
  if (found == members.end()) return false;
  members.erase(found);
  return true;
}

}  // namespace tidemark
