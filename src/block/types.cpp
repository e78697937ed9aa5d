#include "block/types.hpp"

namespace tidemark {

std::string permission_names(Permissions::Set set) {
  static constexpr std::pair<Permissions::Set, std::string_view> names[] = {
      {Permissions::consistent_read, "consistent read"},
      {Permissions::write, "write"},
      {Permissions::write_unchanged, "write unchanged"},
      {Permissions::resize, "resize"},
      {Permissions::write_below, "write below overlays"},
  };
  std::string text;
  for (const auto& [bit, name] : names) {
    if (!(set & bit)) continue;
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text.empty() ? "none" : text;
}

std::string_view to_string(Role role) noexcept {
  switch (role) {
    case Role::root: return "root";
    case Role::file: return "file";
    case Role::data_file: return "data-file";
    case Role::backing: return "backing";
    case Role::filtered: return "file";
    case Role::target: return "target";
  }
  return "unknown";
}

}  // namespace tidemark
