#include "base/identifier.hpp"

#include <algorithm>

namespace tidemark {
namespace {

bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

bool is_identifier(std::string_view id) noexcept {
  const auto legal = [](char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'; };
  return !id.empty() && is_letter(id[0]) && std::all_of(id.begin(), id.end(), legal);
}

}  // namespace tidemark
