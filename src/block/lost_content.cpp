#include "block/lost_content.hpp"

namespace tidemark {
namespace {

void mark_again(NodeBitmap& bitmap) {
  const Range all{0, bitmap.bits().size()};
  if (!bitmap.persistent()) return bitmap.mark(all);
  if (!bitmap.kept()) return;
  DirtyAreas areas(bitmap.kept()->bits, all);
  while (const auto area = areas.next()) bitmap.mark(*area);
}

}  // namespace

void mark_lost_content(BlockNode& node) {
  for (const auto* bitmaps : {&node.bitmaps().all(), &node.bitmaps().retired()})
    for (const auto& bitmap : *bitmaps) mark_again(*bitmap);
}

}  // namespace tidemark
