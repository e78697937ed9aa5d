// Bitmaps in qcow2: the bitmaps extension, bit for bit as QEMU writes it.
//
// A change allocates and writes what is new, makes it durable, lets the header point at it, and frees what was there.
// Cut off anywhere there are the old bitmaps, the new ones, or, while the header changes, none that count; and leaked
// clusters at most.
#pragma once

#include <optional>

#include "bitmap/dirty_bitmap.hpp"
#include "format/qcow2/layout/bitmap_directory.hpp"

namespace tidemark {

struct Qcow2Bitmap {
  qcow2::BitmapEntry entry;
  std::optional<DirtyBitmap> bits;         // none: what is stored for it stays as it is
};

}  // namespace tidemark
