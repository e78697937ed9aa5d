// What users may call things: ids of jobs, exports, objects and character devices.
#pragma once

#include <string_view>

namespace tidemark {

// QEMU's rule: a letter, then letters, digits, '-', '.', '_'.
bool is_identifier(std::string_view id) noexcept;

}  // namespace tidemark
