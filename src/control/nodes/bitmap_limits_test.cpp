// As many bitmaps as a store can have, and no more: it would say when it is opened that all are damaged.
#include <gtest/gtest.h>

#include "block/test_driver.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "tracking/catalogue.hpp"

namespace tidemark::test {
namespace {

class BitmapLimits : public BlockTest {
 protected:
  BitmapLimits() { add_disk("disk"); }
  void add_bitmaps(std::uint32_t n) {
    for (std::uint32_t i = 0; i < n; ++i) {
      auto bitmap = std::make_shared<NodeBitmap>(std::to_string(i), node("disk").size(), 65536);
      bitmap->set_persistent(true);
      node("disk").bitmaps().insert(std::move(bitmap));
    }
  }
};

TEST_F(BitmapLimits, TheLastThatAStoreCanHave) {
  add_bitmaps(tracking::Catalogue::bitmaps_max - 1);
  EXPECT_TRUE(check_storable(node("disk"), "last", 65536).ok());
  add_bitmaps(1);
  EXPECT_EQ(check_storable(node("disk"), "more", 65536).error().message(),
            "Can't make bitmap 'more' persistent in 'disk': Maximum number of persistent bitmaps is already reached");
}

TEST_F(BitmapLimits, OneThatTheStoreHasStillCounts) {
  add_bitmaps(tracking::Catalogue::bitmaps_max);
  NodeBitmaps& bitmaps = node("disk").bitmaps();
  bitmaps.retire(*bitmaps.all().front());
  EXPECT_FALSE(check_storable(node("disk"), "more", 65536).ok());
  bitmaps.bury(*bitmaps.retired().front());
  EXPECT_TRUE(check_storable(node("disk"), "more", 65536).ok());
}

}  // namespace
}  // namespace tidemark::test
