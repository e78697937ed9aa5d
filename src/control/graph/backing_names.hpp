// What an image's name of its backing file leads to, and whether it may: files and devices, of formats that are known
// to be safe.  Nothing is opened here.
#pragma once

#include "schema/node.hpp"

namespace tidemark {

// A node of the format, for the name in `image`: a path, from the image's directory, or QEMU's `json:{...}`, where a key
// may be a path (`file.filename`) and `format`, where it is not empty, is the driver whatever the object says.  An object may
// also say what is below the image, which the same holds for.
Result<schema::BlockdevOptions> describe_backing(const std::string& image, const std::string& name, const std::string& format);

// What is below the image by such a description; null: it says nothing of it, or that there is nothing.
const schema::BlockdevOptions* described_below(const schema::BlockdevOptions& described);

// The file or device at the bottom of what describe_backing() has returned.
const std::string& file_of(const schema::BlockdevOptions& described);

}  // namespace tidemark
