#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/copy_run.hpp"
#include "app/runtime.hpp"
#include "base/bytes.hpp"
#include "base/paths.hpp"

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

// What QMP takes as the name of a node and of an export.
bool valid_node_name(const std::string& name) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  auto legal = [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'; };
  return !name.empty() && name.size() <= 31 && letter(name[0]) && std::all_of(name.begin(), name.end(), legal);
}

Result<ServedDisk> parse_disk(const std::string& word, const std::string& format) {
  ServedDisk disk;
  const auto at = word.rfind('=');
  disk.file = word.substr(0, at);
  std::error_code ignored;
  disk.name = at == std::string::npos ? std::filesystem::path(disk.file).stem().string() : word.substr(at + 1);
  if (disk.file.empty()) return Error(Errc::invalid_argument, fmt::format("'{}' names no file; write FILE=NAME", word));
  const auto status = std::filesystem::status(disk.file, ignored);
  if (std::filesystem::exists(status) && !is_regular_file(status) && !is_block_file(status))
    return Error(Errc::invalid_argument, fmt::format("'{}' is neither a file nor a block device", disk.file));
  auto found = format_of(disk.file, format);
  if (!found) return found.error();
  if (!valid_node_name(disk.name))
    return Error(Errc::invalid_argument, fmt::format("'{}' cannot name a disk (a letter, then letters, digits, '-', '.', '_'; at "
                                                     "most 31); give a name with FILE=NAME", disk.name));
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

// HOST:PORT, where HOST may be [IPV6].
Result<Json> tcp_address(const std::string& text) {
  const Error refused(Errc::invalid_argument, fmt::format("'{}' is no address; give HOST:PORT", text));
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == text.size()) return refused;
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  if (port.size() > 5 || port.find_first_not_of("0123456789") != std::string::npos || std::stoul(port) > 65535) return refused;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  else if (host.find(':') != std::string::npos) return refused;
  return Json::object({{"type", "inet"}, {"host", host}, {"port", port}});
}

// Absolute, since clients elsewhere are given it; but a socket's path is short.
std::string socket_path(const std::string& path) {
  constexpr std::size_t path_max = 107;
  std::string full = absolute_path(path);
  return full.size() > path_max ? path : full;
}

// Everything goes as JSON: paths and names may hold commas.
Result<std::vector<std::string>> daemon_arguments(const std::string& qmp_socket, const ServeOptions& options) {
  Json address = Json::object({{"type", "unix"}, {"path", socket_path(options.nbd_socket)}});
  if (!options.nbd_tcp.empty()) {
    auto tcp = tcp_address(options.nbd_tcp);
    if (!tcp) return tcp.error();
    address = *std::move(tcp);
  }
  const Json chardev = Json::object({{"backend", "socket"}, {"id", "qmp"}, {"path", socket_path(qmp_socket)},
                                     {"server", true}, {"wait", false}});
  std::vector<std::string> words{beside_this_program("tidemarkd"), "--announce", "--chardev", to_text(chardev),
                                 "--monitor", "chardev=qmp"};
  std::vector<std::string> names;
  for (const std::string& word : options.disks) {
    auto disk = parse_disk(word, options.format);
    if (!disk) return disk.error();
    if (std::find(names.begin(), names.end(), disk->name) != names.end())
      return Error(Errc::invalid_argument, fmt::format("two disks are named '{}'; give names with FILE=NAME", disk->name));
    names.push_back(disk->name);
    words.insert(words.end(), {"--blockdev", to_text(blockdev(*disk, options))});
  }
  words.insert(words.end(), {"--nbd-server", to_text(Json::object({{"addr", std::move(address)}}))});
  for (const std::string& name : names) {
    const Json exported = Json::object({{"type", "nbd"}, {"id", name}, {"node-name", name}, {"name", name},
                                        {"writable", !options.read_only}});
    words.insert(words.end(), {"--export", to_text(exported)});
  }
  for (const std::string& path : {qmp_socket, options.nbd_tcp.empty() ? options.nbd_socket : std::string()})
    if (auto made = make_parent(path); !made) return made.error();
  return words;
}

// Without what a copy's overlay has a disk would go on from an older state.
Result<> check_copies(const ServeOptions& options) {
  auto backend = make_backend({});
  if (!backend) return backend.error();
  Reactor reactor(**backend);
  for (const std::string& word : options.disks) {
    const auto disk = parse_disk(word, options.format);
    if (!disk) return disk.error();
    if (const auto ok = reactor.run(check_no_copy_left(reactor, disk->file)); !ok) return ok;
  }
  return {};
}

}  // namespace

Exit serve(const std::string& qmp_socket, const ServeOptions& options, bool json) {
  auto words = daemon_arguments(qmp_socket, options);
  if (words)
    if (const auto ok = check_copies(options); !ok) words = ok.error();
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
