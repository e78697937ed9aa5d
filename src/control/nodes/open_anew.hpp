// A node is opened anew after a flush has lost something: with it what keeps its bitmaps.
//
// Invariant: while an image that holds bitmaps is written, nobody would believe those in the file.  Its header may be one from
// before that was said, or from after its end.
#pragma once

#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

// On the node's thread; the node is drained by the caller.

// BlockNode::open_anew(), of what it is stored in, too, which is at rest meanwhile.  Bitmaps are claimed again; an image whose
// bitmaps cannot be is not written any more.
Task<> open_anew(BlockNode& node);
// Nothing is written to the image from here on, until it is opened anew; who has written to it is told.
Task<> give_up_image(BlockNode& node, Qcow2Driver& image, std::string why);

}  // namespace tidemark
