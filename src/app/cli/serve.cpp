#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "base/bytes.hpp"

namespace tidemark::cli {
namespace {

struct ServedDisk {
  std::string file, name, format;
};

Result<std::string> format_of(const std::string& file, const std::string& asked) {
  if (!asked.empty()) return asked;
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return Error::from_errno(errno, fmt::format("Could not open '{}'", file));
  char magic[4] = {};
  stream.read(magic, sizeof magic);
  const bool is_qcow2 = stream.gcount() == 4 && std::memcmp(magic, "QFI\xfb", 4) == 0;
  const bool named_qcow2 = file.ends_with(".qcow2") || file.ends_with(".qcow");
  // A guest can write a qcow2 header into its raw disk: content alone decides nothing.
  if (is_qcow2 != named_qcow2)
    return Error(Errc::invalid_argument,
                 fmt::format("'{}': its name and its content disagree on its format; give --format raw or --format qcow2", file));
  return std::string(is_qcow2 ? "qcow2" : "raw");
}

Result<ServedDisk> parse_disk(const std::string& word, const std::string& format) {
  ServedDisk disk;
  const auto at = word.rfind('=');
  disk.file = word.substr(0, at);
  std::error_code ignored;
  disk.name = at == std::string::npos ? std::filesystem::path(disk.file).stem().string() : word.substr(at + 1);
  auto found = format_of(disk.file, format);
  if (!found) return found.error();
  disk.format = *found;
  disk.file = std::filesystem::absolute(disk.file, ignored).string();
  return disk;
}

Json blockdev(const ServedDisk& disk, const ServeOptions& options) {
  const bool device = std::filesystem::is_block_file(disk.file);
  Json file = Json::object({{"driver", device ? "host_device" : "file"}, {"filename", disk.file}});
  if (options.direct) file.set("cache", Json::object({{"direct", true}}));
  return Json::object({{"driver", disk.format}, {"node-name", disk.name}, {"read-only", options.read_only},
                       {"discard", "unmap"}, {"file", std::move(file)}});
}

std::string beside_this_program(const char* name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string(name) : (self.parent_path() / name).string();
}

// Directories for sockets are made private; one that is there is left as it is.
Result<> make_parent(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  if (parent.empty() || ::mkdir(parent.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return Error::from_errno(errno, fmt::format("making '{}'", parent.string()));
}

Result<std::vector<std::string>> daemon_arguments(const std::string& qmp_socket, const ServeOptions& options) {
  std::vector<std::string> words{beside_this_program("tidemarkd"), "--announce"};
  for (const std::string& path : {qmp_socket, options.nbd_socket}) {
    if (path.empty()) continue;
    if (auto made = make_parent(path); !made) return made.error();
  }
  words.insert(words.end(), {"--chardev", "socket,id=qmp,server=on,wait=off,path=" + qmp_socket, "--monitor", "chardev=qmp"});
  std::vector<std::string> names;
  for (const std::string& word : options.disks) {
    auto disk = parse_disk(word, options.format);
    if (!disk) return disk.error();
    if (std::find(names.begin(), names.end(), disk->name) != names.end())
      return Error(Errc::invalid_argument, fmt::format("two disks are named '{}'; give names with FILE=NAME", disk->name));
    names.push_back(disk->name);
    words.insert(words.end(), {"--blockdev", tidemark::to_text(blockdev(*disk, options))});
  }
  if (options.nbd_tcp.empty()) {
    words.insert(words.end(), {"--nbd-server", "addr.type=unix,addr.path=" + options.nbd_socket});
  } else {
    const auto colon = options.nbd_tcp.rfind(':');
    if (colon == std::string::npos)
      return Error(Errc::invalid_argument, fmt::format("'{}' is no address; give HOST:PORT", options.nbd_tcp));
    words.insert(words.end(), {"--nbd-server", fmt::format("addr.type=inet,addr.host={},addr.port={}",
                                                           options.nbd_tcp.substr(0, colon), options.nbd_tcp.substr(colon + 1))});
  }
  for (const std::string& name : names)
    words.insert(words.end(), {"--export", fmt::format("type=nbd,id={0},node-name={0},name={0},writable={1}", name,
                                                       options.read_only ? "off" : "on")});
  return words;
}

}  // namespace

Exit serve(const std::string& qmp_socket, const ServeOptions& options, bool json) {
  auto words = daemon_arguments(qmp_socket, options);
  if (!words) {
    print_error(words.error(), json);
    return Exit::failed;
  }
  if (json) (*words)[1] = "--announce=json";
  std::vector<char*> arguments;
  for (std::string& word : *words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  print_error(Error::from_errno(errno, fmt::format("run '{}'", (*words)[0])), json);
  return Exit::failed;
}

}  // namespace tidemark::cli
