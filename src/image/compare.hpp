// Comparing what two disks read as.
#pragma once

#include <optional>

#include "block/edge.hpp"
#include "image/workers.hpp"

namespace tidemark::image {

struct CompareOptions {
  Course course;
  bool strict = false;                     // sizes, and what is allocated, count as well
};

struct CompareReport {
  bool sizes_differ = false;
  std::optional<std::uint64_t> content_at, allocation_at;      // the first difference
  bool same(bool strict) const noexcept { return !content_at && !(strict && (sizes_differ || allocation_at)); }
};

// The shorter disk is compared as if zeroes followed.
Task<CompareReport> compare_disks(Edge& first, Edge& second, CompareOptions options);

}  // namespace tidemark::image
