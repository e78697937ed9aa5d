#include "app/cli/image/names.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include <fmt/format.h>

#include "app/cli/image/shared_bytes.hpp"
#include "app/cli/image/uri.hpp"
#include "control/graph/backing_names.hpp"
#include "format/qcow2/driver.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

constexpr std::size_t chain_layers_max = 1000;

bool is_json(const std::string& name) { return name.starts_with("json:"); }
bool is_nbd(const std::string& name) { return name.starts_with("nbd:") || name.starts_with("nbd+unix:"); }

Task<Json> parse_json_name(std::string name) {
  auto parsed = parse_json(std::string_view(name).substr(5));
  if (!parsed) co_await parsed.error().with_context("Could not parse the JSON options");
  if (!parsed->is_object() || !parsed->find("driver"))
    co_await Error(Errc::invalid_argument, "a json: name is an object with a 'driver', as blockdev-add takes it");
  co_return *std::move(parsed);
}

bool is_driver(const Json& description, std::string_view name) {
  const Json* driver = description.find("driver");
  return driver && driver->is_string() && driver->as_string() == name;
}

Task<> read_magic(File& file, MutableBytes into, std::size_t& length) {
  const FileInfo info = co_await file.stat();
  length = static_cast<std::size_t>(std::min<std::uint64_t>(info.size, into.size()));
  co_await file.read(0, Buffers(into));
}

Error could_not_open(const std::string& path, const Error& error) {
  const auto colon = path.find(':');
  if (error.code() == Errc::not_found && colon != std::string::npos && colon < path.find('/'))
    return Error(Errc::unsupported, fmt::format("Unknown protocol '{}'", path.substr(0, colon)));
  return Error::from_errno(error.os_errno(), fmt::format("Could not open '{}'", path));
}

Task<bool> has_qcow2_magic(Reactor& reactor, std::string path) {
  const OpenFlags reading;
  auto opened = co_await File::open(reactor, path, reading).result();
  if (!opened) co_await could_not_open(path, opened.error());
  File file = *std::move(opened);
  AlignedBuffer start(sector_size);
  std::size_t length = 0;
  auto close = [&file]() -> Task<> { return file.close(); };
  co_await finally(read_magic(file, start.bytes(), length), close);
  co_return length >= 4 && load_be<std::uint32_t>(start.data()) == qcow2::magic;
}

Task<qcow2::Header> header_in(File& file) {
  const FileInfo info = co_await file.stat();
  AlignedBuffer start(sector_size);
  co_await file.read(0, start.bytes());
  const auto start_length = static_cast<std::size_t>(std::min<std::uint64_t>(info.size, start.size()));
  const std::uint64_t cluster_size = co_await unwrap(qcow2::first_cluster_size(start.bytes().first(start_length)));
  AlignedBuffer cluster(std::min(info.size, cluster_size));
  co_await file.read(0, cluster.bytes());
  co_return co_await unwrap(qcow2::parse_header(cluster.bytes(), info.size));
}

Json layer_of(const std::string& format, Json storage) {
  return Json::object({{"driver", format}, {"file", std::move(storage)}});
}

using schema::BlockdevOptions;

const BlockdevOptions& inlined(const schema::BlockdevRef& reference) {
  return *std::get<schema::Box<BlockdevOptions>>(reference.value);
}

bool shows_whole_file(const BlockdevOptions& node) {
  if (std::holds_alternative<schema::BlockdevOptionsFile>(node.branch)) return true;
  const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&node.branch);
  return raw && raw->offset.value_or(0) == 0 && !raw->size && shows_whole_file(inlined(raw->file));
}

// Options that change nothing of what is read: how fast it is read, and what the node is called.
bool only_tunes(std::string_view option) {
  constexpr std::string_view all[] = {
      "node-name", "discard", "cache", "detect-zeroes", "read-only", "auto-read-only", "force-share",
      "locking", "aio", "aio-max-batch", "drop-cache", "x-check-cache-dropped",
      "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "discard-no-unref", "overlap-check",
      "cache-size", "l2-cache-size", "l2-cache-entry-size", "refcount-cache-size", "cache-clean-interval"};
  return std::find(std::begin(all), std::end(all), option) != std::end(all);
}

// A number may be written as a string.
Json as_number(const Json& value) {
  std::uint64_t number = 0;
  if (!value.is_string()) return value;
  const std::string& text = value.as_string();
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? Json(number) : value;
}

// The rest, of a node and what is below it; the options of its `file` may be its own with a path: `file.filename`.
Json without_tuning(const Json& node) {
  Json rest = Json::object();
  for (const auto& [key, value] : node.as_object()) {
    std::string_view option = key;
    while (option.starts_with("file.")) option.remove_prefix(5);
    if (only_tunes(option.substr(0, option.find('.')))) continue;
    const bool is_number = option == "offset" || option == "size";
    if ((option == "file" || option == "backing") && value.is_object()) rest.as_object().emplace_back(key, without_tuning(value));
    else rest.as_object().emplace_back(key, is_number ? as_number(value) : value);
  }
  return rest;
}

// Whether a description says that nothing is below, which it says no more then.
bool take_end(Json& description) {
  const Json* backing = description.find("backing");
  const bool is_end = backing && (backing->is_null() || (backing->is_string() && backing->as_string().empty()));
  if (is_end) description.remove("backing");
  return is_end;
}

Error no_plain_file(const std::string& name) {
  return Error(Errc::unsupported, fmt::format("'{}' is not the name of a whole file and its format; describe the chain with a json: name",
                                              name));
}

std::optional<ImageName> whole_file(const BlockdevOptions& described) {
  const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&described.branch);
  const std::string& file = file_of(described);
  if (!shows_whole_file(qcow2 ? inlined(qcow2->file) : described) || local_path(file) != file) return std::nullopt;
  return ImageName{file, qcow2 ? "qcow2" : "raw"};
}

struct Described {
  ImageName image;
  BlockdevOptions options;
};

// What a json: name in `image` leads to, as a daemon takes it.  Here a layer is a file and a format, no more: what says
// anything else about the content is refused, or another part of the disk would be read, and written.
Result<Described> plain_file(const std::string& image, const std::string& name, const std::string& format) {
  const auto parsed = parse_json(std::string_view(name).substr(5));
  Json wanted = parsed && parsed->is_object() ? without_tuning(*parsed) : Json::object();
  const bool alone = take_end(wanted);
  auto described = describe_backing(image, "json:" + to_text(wanted), format);
  auto file = described ? whole_file(*described) : std::nullopt;
  if (!file) return no_plain_file(name);
  file->alone = file->format == "qcow2" && alone;
  return Described{*std::move(file), *std::move(described)};
}

bool says_end(const BlockdevOptions& described) {
  const auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&described.branch);
  return qcow2 && qcow2->backing && std::holds_alternative<std::nullptr_t>(qcow2->backing->value);
}

// The name of the image below that a header has, when it says no more than that.
Task<ImageName> named_in(Reactor& reactor, ImageName image) {
  const qcow2::Header header = co_await read_header(reactor, image.name);
  if (!is_json(header.backing_name)) co_return co_await backing_of(reactor, image.name, header.backing_name, header.backing_format);
  Described below = co_await unwrap(plain_file(image.name, header.backing_name, header.backing_format));
  if (described_below(below.options)) co_await no_plain_file(header.backing_name);
  co_return std::move(below.image);
}

// From here on a layer is followed by its own header: what a name in `image` says of the layers below has to be what they say.
Task<> check_as_headers_say(Reactor& reactor, Described image, std::string name) {
  const BlockdevOptions* below = described_below(image.options);
  for (ImageName at = image.image; below; below = described_below(*below)) {
    const auto said = whole_file(*below);
    auto named = co_await named_in(reactor, at).result();
    if (!said || says_end(*below) || !named || named->alone || named->format != said->format) co_await no_plain_file(name);
    const bool same = co_await is_same_file(reactor, named->name, said->name);
    if (!same) co_await no_plain_file(name);
    at = *std::move(named);
  }
}

// One file of a chain, told apart by what it is and not by how it is called.
using Identity = std::pair<std::uint64_t, std::uint64_t>;

}  // namespace

void apply(Json& description, const ImageAccess& access) {
  description.set("read-only", !access.write);
  if (access.force_share) description.set("force-share", true);
  if (access.direct) description.set("cache", Json::object({{"direct", true}}));
}

std::optional<std::string> local_path(const std::string& name) {
  if (is_json(name) || is_nbd(name)) return std::nullopt;
  if (name.starts_with("file:")) return name.substr(5);
  return name;
}

Task<Json> describe_storage(Reactor& reactor, std::string name) {
  if (is_nbd(name)) co_return co_await unwrap(describe_nbd(name));
  if (is_json(name)) {
    Json described = co_await parse_json_name(name);
    Json* file = is_driver(described, "qcow2") ? described.find("file") : nullptr;
    if (!file) co_return std::move(described);
    Json storage = std::move(*file);
    co_return std::move(storage);
  }
  const std::string path = *local_path(name);
  auto info = co_await fs::stat(reactor, path).result();
  if (!info) co_await could_not_open(path, info.error());
  const char* driver = info->type == FileInfo::Type::block_device ? "host_device" : "file";
  co_return Json::object({{"driver", driver}, {"filename", path}});
}

Task<std::string> format_of(Reactor& reactor, ImageName name, bool trust_content) {
  if (!name.format.empty()) co_return name.format;
  if (is_json(name.name)) {
    const Json described = co_await parse_json_name(name.name);
    co_return std::string(is_driver(described, "qcow2") ? "qcow2" : "raw");
  }
  const auto path = local_path(name.name);
  if (!path) co_return "raw";                            // a server shows a disk, not a file
  const bool is_qcow2 = co_await has_qcow2_magic(reactor, *path);
  const bool named_qcow2 = path->ends_with(".qcow2") || path->ends_with(".qcow");
  // A guest can write a qcow2 header into its raw disk: content alone decides nothing.
  if (is_qcow2 != named_qcow2 && !trust_content)
    co_await Error(Errc::invalid_argument, fmt::format("'{}': its name and its content disagree on its format; give -f raw or -f qcow2",
                                                       *path));
  co_return std::string(is_qcow2 ? "qcow2" : "raw");
}

Task<qcow2::Header> read_header(Reactor& reactor, std::string path) {
  const OpenFlags reading;
  File file = co_await File::open(reactor, std::move(path), reading);
  auto close = [&file]() -> Task<> { return file.close(); };
  co_return co_await finally(header_in(file), close);
}

Task<ImageName> backing_of(Reactor& reactor, std::string path, std::string backing_name, std::string backing_format) {
  if (is_json(backing_name)) {
    const Described below = co_await unwrap(plain_file(path, backing_name, backing_format));
    co_await check_as_headers_say(reactor, below, backing_name);
    co_return below.image;
  }
  auto found = Qcow2Driver::backing_path(path, backing_name);
  if (!found)
    co_await Error(Errc::unsupported, fmt::format("'{}' is not a plain file; describe the chain with a json: name", backing_name));
  ImageName below{*std::move(found), std::move(backing_format)};
  if (below.format == "file" || below.format == "host_device") below.format = "raw";
  if (!below.format.empty() && below.format != "raw" && below.format != "qcow2")
    co_await Error(Errc::unsupported, fmt::format("Unknown driver '{}'", below.format));
  below.format = co_await format_of(reactor, below, false);
  co_return std::move(below);
}

Task<std::vector<ImageName>> chain_of(Reactor& reactor, ImageName at) {
  std::vector<ImageName> layers;
  std::set<Identity> seen;
  for (;;) {
    const FileInfo info = co_await fs::stat(reactor, at.name);
    if (!seen.insert({info.device, info.inode}).second)
      co_await Error(Errc::invalid_format, fmt::format("Backing file '{}' creates an infinite loop.", at.name));
    if (layers.size() >= chain_layers_max)
      co_await Error(Errc::invalid_format, fmt::format("'{}': the backing chain has more than {} layers", layers[0].name,
                                                       chain_layers_max));
    layers.push_back(at);
    if (at.format != "qcow2") co_return std::move(layers);
    auto header = co_await read_header(reactor, at.name).result();
    if (!header) co_await header.error().with_context(fmt::format("Could not open '{}'", at.name));
    if (header->backing_name.empty()) layers.back().alone = false;
    if (header->backing_name.empty() || at.alone) co_return std::move(layers);
    const std::string image = at.name;
    auto below = co_await backing_of(reactor, image, header->backing_name, header->backing_format).result();
    if (!below) co_await below.error().with_context(fmt::format("Could not open backing file of '{}'", image));
    at = *std::move(below);
  }
}

Result<> check_none_alone(const std::vector<ImageName>& chain) {
  for (const ImageName& layer : chain)
    if (layer.alone)
      return Error(Errc::unsupported, fmt::format("'{}' is taken here without what it stands on (json: with 'backing': null); rebase the "
                                                  "image above it first", layer.name));
  return {};
}

Task<bool> is_same_file(Reactor& reactor, std::string one, std::string other) {
  const auto first = co_await fs::stat(reactor, std::move(one)).result();
  const auto second = co_await fs::stat(reactor, std::move(other)).result();
  co_return first && second && first->device == second->device && first->inode == second->inode;
}

Task<> check_no_loop(Reactor& reactor, std::vector<ImageName> below, std::string image) {
  for (const ImageName& layer : below) {
    const bool same = co_await share_bytes(reactor, layer.name, image);
    if (same) co_await Error(Errc::invalid_argument, fmt::format("'{}' stands on '{}' itself, or is it", below[0].name, image));
  }
}

Task<Json> describe_layers(Reactor& reactor, std::vector<ImageName> layers) {
  Json below;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    Json storage = co_await describe_storage(reactor, layer->name);
    Json description = layer_of(layer->format, std::move(storage));
    if (layer->format == "qcow2") description.set("backing", std::move(below));
    description.set("read-only", true);
    below = std::move(description);
  }
  co_return std::move(below);
}

Task<Json> describe(Reactor& reactor, ImageName name, ImageAccess access) {
  Json description;
  if (is_json(name.name)) {
    description = co_await parse_json_name(name.name);
    const bool is_layer = !name.format.empty() && !is_driver(description, name.format);
    if (is_layer) description = layer_of(name.format, std::move(description));
  } else {
    name.format = co_await format_of(reactor, name, access.trust_content);
    if (name.format != "raw" && name.format != "qcow2")
      co_await Error(Errc::invalid_argument, fmt::format("Unknown driver '{}'", name.format));
    const auto path = local_path(name.name);
    if (path && access.below && name.format == "qcow2") {
      ImageName top{*path, name.format, {}, name.alone};
      auto layers = co_await chain_of(reactor, std::move(top));
      description = co_await describe_layers(reactor, std::move(layers));
    } else {
      Json storage = co_await describe_storage(reactor, name.name);
      description = layer_of(name.format, std::move(storage));
    }
  }
  if (!access.below && is_driver(description, "qcow2")) description.set("backing", Json());
  if (!access.data_file.empty()) description.set("data-file", Json::object({{"driver", "file"}, {"filename", access.data_file}}));
  apply(description, access);
  co_return std::move(description);
}

}  // namespace tidemark::cli
