// Changes of an image that nobody has open, made on its file.
#pragma once

#include <string>

#include "block/edge.hpp"

namespace tidemark::qcow2 {

// What the image says that it stands on; empty: on nothing.  What its clusters hold does not change.
//
// Cut off anywhere the header says the old name or the new one, unless its extensions change their length: a format is
// named for the first time, or no more, or one of more than eight letters.
Task<> change_backing(Edge& file, std::string name, std::string format);

// All that the image decides itself is gone: it shows what is below.  Internal snapshots stay.  Cut off anywhere each
// cluster shows the one or the other.
Task<> empty_image(Edge& file);

}  // namespace tidemark::qcow2
