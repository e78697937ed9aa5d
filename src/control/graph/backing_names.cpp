#include "control/graph/backing_names.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "format/qcow2/driver.hpp"

namespace tidemark {

using schema::BlockdevDriver;
using schema::BlockdevOptions;

namespace {

bool is_plain(const schema::BlockdevRef& reference);
bool is_plain(const std::optional<schema::BlockdevRefOrNull>& backing);

struct Plainness {
  bool operator()(const schema::BlockdevOptionsFile&) const { return true; }
  bool operator()(const schema::BlockdevOptionsRaw& raw) const { return is_plain(raw.file); }
  bool operator()(const schema::BlockdevOptionsQcow2& image) const {
    return is_plain(image.file) && is_plain(image.backing) && !image.data_file;
  }
  template <class Other>
  bool operator()(const Other&) const {
    return false;
  }
};

bool is_plain(const BlockdevOptions& options) {
  return !options.node_name && !options.tracking && std::visit(Plainness{}, options.branch);
}
bool is_plain(const schema::BlockdevRef& reference) {
  const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&reference.value);
  return inlined && is_plain(**inlined);
}
// What is below the image whatever it says itself: nothing, or what may be named as well.
bool is_plain(const std::optional<schema::BlockdevRefOrNull>& backing) {
  if (!backing || std::holds_alternative<std::nullptr_t>(backing->value)) return true;
  const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&backing->value);
  return inlined && is_plain(**inlined);
}

// Nothing of what is plain is written because its name says so.
void only_read(BlockdevOptions& plain) {
  plain.read_only.reset();
  if (auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&plain.branch))
    only_read(*std::get<schema::Box<BlockdevOptions>>(raw->file.value));
  auto* image = std::get_if<schema::BlockdevOptionsQcow2>(&plain.branch);
  if (!image) return;
  only_read(*std::get<schema::Box<BlockdevOptions>>(image->file.value));
  auto* below = image->backing ? std::get_if<schema::Box<BlockdevOptions>>(&image->backing->value) : nullptr;
  if (below) only_read(**below);
}

// {"file.filename": x} is {"file": {"filename": x}}.
Result<Json> unfolded(const Json::Object& members) {
  Json whole = Json::object();
  for (const auto& [key, value] : members) {
    Json* object = &whole;
    std::string_view rest = key;
    for (std::size_t point; (point = rest.find('.')) != std::string_view::npos; rest.remove_prefix(point + 1)) {
      Json* there = object->find(rest.substr(0, point));
      object = there ? there : &object->set(rest.substr(0, point), Json::object());
      if (!object->is_object()) return Error(Errc::invalid_argument, fmt::format("Parameters '{}' used inconsistently", key));
    }
    if (object->find(rest)) return Error(Errc::invalid_argument, fmt::format("Parameter '{}' is given twice", key));
    if (!value.is_object()) {
      object->set(rest, value);
      continue;
    }
    auto inner = unfolded(value.as_object());
    if (!inner) return inner;
    object->set(rest, *std::move(inner));
  }
  return whole;
}

void complete(Json& node);

void complete_below(Json& image) {
  if (Json* file = image.find("file"); file && file->is_object()) complete(*file);
  if (Json* backing = image.find("backing"); backing && backing->is_object()) complete_below(*backing);
}

// A name alone is a file's, but not of what is below an image: its format would be guessed.
void complete(Json& node) {
  if (!node.find("driver") && node.find("filename")) node.set("driver", "file");
  complete_below(node);
}

Result<BlockdevOptions> described_in_json(std::string_view text, const std::string& format) {
  auto json = parse_json(text);
  if (!json) return json.error();
  if (!json->is_object()) return Error(Errc::invalid_argument, "it is no JSON object");
  auto whole = unfolded(json->as_object());
  if (!whole) return whole.error();
  if (!format.empty()) whole->set("driver", format);
  complete(*whole);
  auto options = schema::from_json<BlockdevOptions>(*whole);
  if (!options) return options;
  if (!is_plain(*options))
    return Error(Errc::invalid_argument, "it is not made of plain files; give the backing node with 'backing'");
  only_read(*options);
  return options;
}

schema::BlockdevRef file_node(const std::string& path) {
  std::error_code error;
  BlockdevOptions file;
  file.driver = std::filesystem::is_block_file(path, error) ? BlockdevDriver::host_device : BlockdevDriver::file;
  schema::BlockdevOptionsFile where;
  where.filename = path;
  file.branch = std::move(where);
  schema::BlockdevRef reference;
  reference.value = schema::Box<BlockdevOptions>(std::move(file));
  return reference;
}

template <class Format>
BlockdevOptions node_of(BlockdevDriver driver, const std::string& path) {
  BlockdevOptions node;
  node.driver = driver;
  Format format;
  format.file = file_node(path);
  node.branch = std::move(format);
  return node;
}

}  // namespace

Result<BlockdevOptions> describe_backing(const std::string& image, const std::string& name, const std::string& format) {
  constexpr std::string_view json = "json:";
  if (name.starts_with(json)) {
    auto described = described_in_json(std::string_view(name).substr(json.size()), format);
    if (described) return described;
    return Error(Errc::invalid_format, fmt::format("'{}': backing file '{}': {}", image, name, described.error().message()));
  }
  const auto path = Qcow2Driver::backing_path(image, name);
  if (!path)
    return Error(Errc::unsupported, fmt::format("'{}': backing file '{}' is not a plain file name; give the backing node with "
                                                "'backing'", image, name));
  if (format == "qcow2") return node_of<schema::BlockdevOptionsQcow2>(BlockdevDriver::qcow2, *path);
  // QEMU may name the storage of an image that has no format.
  const bool plain = format == "raw" || format == "file" || format == "host_device";
  if (plain) return node_of<schema::BlockdevOptionsRaw>(BlockdevDriver::raw, *path);
  return Error(Errc::unsupported, fmt::format("'{}': the format of backing file '{}' is '{}'; give the backing node with 'backing'",
                                              image, *path, format));
}

const BlockdevOptions* described_below(const BlockdevOptions& described) {
  if (const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&described.branch))
    return described_below(*std::get<schema::Box<BlockdevOptions>>(raw->file.value));
  const auto* image = std::get_if<schema::BlockdevOptionsQcow2>(&described.branch);
  const auto* below = image && image->backing ? std::get_if<schema::Box<BlockdevOptions>>(&image->backing->value) : nullptr;
  return below ? &**below : nullptr;
}

const std::string& file_of(const BlockdevOptions& described) {
  if (const auto* file = std::get_if<schema::BlockdevOptionsFile>(&described.branch)) return file->filename;
  const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&described.branch);
  const schema::BlockdevRef& below = raw ? raw->file : std::get<schema::BlockdevOptionsQcow2>(described.branch).file;
  return file_of(*std::get<schema::Box<BlockdevOptions>>(below.value));
}

}  // namespace tidemark
