// Random operations on a bitmap, shared by the property tests: RapidCheck generates and shrinks
// them as plain numbers, each test interprets them on a bitmap and on its model.
#pragma once

#include <rapidcheck/gtest.h>

#include <algorithm>
#include <ostream>
#include <vector>

#include "base/units.hpp"

namespace tidemark {

struct BitmapOp {
  enum Kind : std::uint8_t {
    set,
    clear,
    clear_aligned,
    set_all,
    clear_all,
    invert,
    truncate,
    merge,
    reload,
    take,
    kinds
  };
  Kind kind;
  std::uint64_t a;
  std::uint64_t b;

  friend std::ostream& operator<<(std::ostream& out, const BitmapOp& op) {
    static constexpr const char* names[] = {"set",       "clear",  "clear_aligned", "set_all",
                                            "clear_all", "invert", "truncate",      "merge",
                                            "reload",    "take"};
    return out << names[op.kind] << "(" << op.a << ", " << op.b << ")";
  }
};

// Any number below the bound, half of them close to where leaves, nodes and the disk end.
inline std::uint64_t pick_below(std::uint64_t number, std::uint64_t granularity,
                                std::uint64_t bound) {
  if (bound == 0) return 0;
  const std::uint64_t rest = number >> 8;
  const std::uint64_t near = rest % 3 * granularity + rest % 7;
  switch (number % 8) {
    case 0: return near % bound;
    case 1: return bound - 1 - near % bound;
    case 2:
    case 3: {
      const unsigned level = rest % 4;
      const std::uint64_t span = granularity << (15 + 6 * level);
      if (span == 0 || span >= bound) return rest % bound;
      const std::uint64_t edge = rest % (bound / span + 1) * span;
      return std::min(edge > near ? edge - near : edge, bound - 1);
    }
    default: return rest % bound;
  }
}

inline Range pick_range(std::uint64_t a, std::uint64_t b, std::uint64_t granularity,
                        std::uint64_t size) {
  const std::uint64_t from = pick_below(a, granularity, size + 1);
  const std::uint64_t length = b % 2 ? pick_below(b >> 1, granularity, size - from + 1)
                                     : std::min(b % 1000 * 257, size - from);
  return {from, length};
}

// Of the full 64 bits however small the test; it shrinks towards 0.
inline auto any_number() {
  return rc::gen::resize(rc::kNominalSize, rc::gen::inRange<std::uint64_t>(0, ~std::uint64_t{0}));
}

}  // namespace tidemark

namespace rc {
template <>
struct Arbitrary<tidemark::BitmapOp> {
  static Gen<tidemark::BitmapOp> arbitrary() {
    using tidemark::BitmapOp;
    const auto kind = gen::weightedElement<BitmapOp::Kind>({{6, BitmapOp::set},
                                                            {3, BitmapOp::clear},
                                                            {3, BitmapOp::clear_aligned},
                                                            {1, BitmapOp::set_all},
                                                            {1, BitmapOp::clear_all},
                                                            {1, BitmapOp::invert},
                                                            {2, BitmapOp::truncate},
                                                            {2, BitmapOp::merge},
                                                            {2, BitmapOp::reload},
                                                            {1, BitmapOp::take}});
    return gen::build<BitmapOp>(gen::set(&BitmapOp::kind, kind),
                                gen::set(&BitmapOp::a, tidemark::any_number()),
                                gen::set(&BitmapOp::b, tidemark::any_number()));
  }
};
}  // namespace rc
