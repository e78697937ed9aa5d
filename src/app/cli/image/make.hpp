// Making images: the bytes that an image of some format begins with.
#pragma once

#include "app/cli/image/format_options.hpp"
#include "app/cli/image/session.hpp"

namespace tidemark::cli {

// An empty image in a new file, with its data in another one if that is named; what is there is overwritten.
Task<> make_image(Reactor& reactor, std::string path, std::string format, FormatOptions options, std::string data_path = {});

// The same on a block device or a server's export, whose size it has to fit.
Task<> make_image_on(Reactor& reactor, std::string name, std::string format, FormatOptions options);

// Whether a name is that of a regular file, there or to be made: then it can be replaced as a whole.
Task<bool> is_file_name(Reactor& reactor, std::string name);

// The image below as it will be opened from beside `image`, whose header is to name it: errors when it cannot be.
// An empty format is an error, too, as it is QEMU's; so is a file that is the image, or stands on it.
Task<ImageName> check_backing(Reactor& reactor, std::string image, std::string backing, std::string backing_format);

// The same of one that need not be there, or be known: only what is known to end in a loop is an error.
Task<> check_unchecked_backing(Reactor& reactor, std::string image, std::string backing, std::string backing_format);

}  // namespace tidemark::cli
