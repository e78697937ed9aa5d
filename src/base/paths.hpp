// Names of files, as text.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tidemark {

// The path without what does nothing in it.  What ".." leads to above a symbolic link only the kernel knows (path_resolution(7)): then
// the path stays as it is.
std::string plain_path(const std::filesystem::path& path);
// The same, from the root on; as it is when there is no current directory.
std::string absolute_path(const std::string& path);
// Where it leads behind all symbolic links; as it is when nothing is there.
std::string real_path(const std::string& path);

// Whether a name that is no option of a file's node leads to something else: before a colon stands a protocol.
bool has_protocol(std::string_view name);
// A file's name where it could be taken for that of something else.
std::string file_not_protocol(std::string name);
// The name of `base`, as this process knows it, for the header of `image`: one that is not absolute counts from where the image is, so
// one that this process knows from elsewhere becomes absolute.  That of a protocol stays.
std::string name_from(const std::string& image, const std::string& base);

}  // namespace tidemark
