// Numbers as command lines have them.  Each is false, and `out` as it was, unless all of `text` is
// one.
#pragma once

#include <cstdint>
#include <string_view>

namespace tidemark::schema {

// Decimal, 0x hexadecimal, 0 octal; white space and a sign may come before it.  Unsigned, -1 is 2^64 - 1.
bool parse_int(std::string_view text, std::int64_t& out) noexcept;
bool parse_uint(std::string_view text, std::uint64_t& out) noexcept;

bool parse_real(std::string_view text, double& out) noexcept;  // finite

// Bytes: "1048576", "0x100000", "64k", "1.5G"; suffixes B, K, M, G, T, P, E in either case.
bool parse_size(std::string_view text, std::uint64_t& out) noexcept;

}  // namespace tidemark::schema
