// Names of files, as text.
#pragma once

#include <filesystem>
#include <string>

namespace tidemark {

// The path without what does nothing in it.  What ".." leads to above a symbolic link only the kernel knows (path_resolution(7)): then
// the path stays as it is.
std::string plain_path(const std::filesystem::path& path);
// The same, from the root on; as it is when there is no current directory.
std::string absolute_path(const std::string& path);
// Where it leads behind all symbolic links; as it is when nothing is there.
std::string real_path(const std::string& path);

}  // namespace tidemark
