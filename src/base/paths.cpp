#include "base/paths.hpp"

#include <algorithm>

namespace tidemark {

std::string plain_path(const std::filesystem::path& path) {
  const std::filesystem::path plain = path.lexically_normal();
  if (std::find(path.begin(), path.end(), "..") == path.end()) return plain.string();
  std::error_code error;                                 // the file may be still to be made, its directory is there
  const bool same = path.filename() == plain.filename() && std::filesystem::equivalent(path.parent_path(), plain.parent_path(), error);
  return same ? plain.string() : path.string();
}

std::string absolute_path(const std::string& path) {
  std::error_code error;
  const auto whole = std::filesystem::absolute(path, error);
  return error ? path : plain_path(whole);
}

std::string real_path(const std::string& path) {
  std::error_code error;
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

bool has_protocol(std::string_view name) { return name.find(':') < name.find('/'); }

std::string file_not_protocol(std::string name) {
  if (has_protocol(name)) name.insert(0, "./");
  return name;
}

std::string name_from(const std::string& image, const std::string& base) {
  const std::filesystem::path path(base), plain = plain_path(path), above = plain_path(image);
  if (path.is_absolute() || has_protocol(base)) return base;
  return plain.parent_path() == above.parent_path() ? file_not_protocol(path.filename().string()) : absolute_path(base);
}

}  // namespace tidemark
