#include <set>

#include <fmt/format.h>

#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/text.hpp"
#include "base/utf8.hpp"
#include "control/commands/node_info.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

std::string size_text(std::uint64_t bytes) { return fmt::format("{} ({} bytes)", human_size(bytes), bytes); }

std::string shown(const Json& object, std::string_view key) { return printable(text(object, key)); }

std::string value_text(const Json& value) {
  if (value.is_string()) return printable(value.as_string());
  return tidemark::to_text(value);
}

// "lazy-refcounts" reads "lazy refcounts".
std::string words(std::string name) {
  for (char& c : name)
    if (c == '-') c = ' ';
  return name;
}

std::string specific_text(const Json& specific) {
  const Json* data = specific.find("data");
  if (!data || !data->is_object()) return {};
  std::string text = "Format specific information:\n";
  for (const auto& [name, value] : data->as_object()) {
    if (value.is_array()) {
      text += fmt::format("    {}:\n", words(name));
      for (const Json& item : value.as_array()) text += fmt::format("        {}\n", tidemark::to_text(item));
    } else {
      text += fmt::format("    {}: {}\n", words(name), value_text(value));
    }
  }
  return text;
}

std::string human(const Json& info) {
  std::string out = fmt::format("image: {}\nfile format: {}\n", shown(info, "filename"), shown(info, "format"));
  out += fmt::format("virtual size: {}\n", size_text(number(info, "virtual-size")));
  if (info.find("actual-size")) out += fmt::format("disk size: {}\n", human_size(number(info, "actual-size")));
  if (flag(info, "dirty-flag")) out += "cleanly shut down: no\n";
  if (info.find("cluster-size")) out += fmt::format("cluster_size: {}\n", number(info, "cluster-size"));
  if (const std::string name = shown(info, "backing-filename"); !name.empty()) {
    const std::string full = shown(info, "full-backing-filename");
    out += fmt::format("backing file: {}{}\n", name, full == name || full.empty() ? "" : fmt::format(" (actual path: {})", full));
  }
  if (const std::string format = shown(info, "backing-filename-format"); !format.empty())
    out += fmt::format("backing file format: {}\n", format);
  if (const Json* snapshots = info.find("snapshots")) {
    out += "Snapshots:\n";
    for (const Json& snapshot : snapshots->as_array())
      out += fmt::format("    {}: {}\n", shown(snapshot, "id"), shown(snapshot, "name"));
  }
  if (const Json* specific = info.find("format-specific")) out += specific_text(*specific);
  return out;
}

Json snapshots_of(BlockNode& node) {
  Json snapshots = Json::array();
  for (const Qcow2Snapshot& snapshot : static_cast<Qcow2Driver&>(node.driver()).snapshots()) snapshots.push_back(to_json(snapshot));
  return snapshots;
}

// A directory that is damaged shows none.
Task<Json> bitmaps_in(BlockNode& node) {
  Json bitmaps = Json::array();
  const auto entries = co_await static_cast<Qcow2Driver&>(node.driver()).bitmap_entries().result();
  if (!entries) co_return std::move(bitmaps);
  for (const qcow2::BitmapEntry& entry : *entries) {
    Json flags = Json::array();
    if (entry.in_use()) flags.push_back("in-use");
    if (entry.enabled()) flags.push_back("auto");
    bitmaps.push_back(Json::object({{"flags", std::move(flags)}, {"name", entry.name},
                                    {"granularity", std::uint64_t{1} << entry.granularity_bits}}));
  }
  co_return std::move(bitmaps);
}

// Nothing but the image's own file is looked at.
Task<BlockNode*> open(Session& session, ImageName name, ImageAccess access) {
  const auto path = local_path(name.name);
  const std::string format = co_await format_of(session.reactor(), name, access.trust_content);
  Qcow2OpenOptions reading;
  reading.read_only = true;
  if (path && format == "qcow2") co_return co_await session.open_qcow2_node(*path, reading, access.force_share);
  const Edge* image = co_await session.open(std::move(name), access);
  co_return &image->node();
}

Task<Json> info_of(const Context& context, ImageName name, ImageAccess access) {
  std::function<Task<Json>(Session&)> body = [&](Session& session) -> Task<Json> {
    BlockNode* image = co_await open(session, name, access);
    const schema::ImageInfo described = co_await describe_image(*image, true);
    Json info = schema::to_json(described);
    const auto path = local_path(name.name);
    if (path) info.set("filename", *path);
    if (image->driver().name() == "qcow2") {
      Json snapshots = snapshots_of(*image);
      if (!snapshots.as_array().empty()) info.set("snapshots", std::move(snapshots));
      Json bitmaps = co_await bitmaps_in(*image);
      if (!bitmaps.as_array().empty()) info.find("format-specific")->find("data")->set("bitmaps", std::move(bitmaps));
    }
    co_return std::move(info);
  };
  co_return co_await in_session<Json>(context.reactor, body, context.interrupted);
}

// Fails when a file comes a second time.
Task<> check_new(Reactor& reactor, std::string path, std::set<std::pair<std::uint64_t, std::uint64_t>>& seen) {
  const FileInfo file = co_await fs::stat(reactor, path);
  if (!seen.insert({file.device, file.inode}).second)
    co_await Error(Errc::invalid_format, fmt::format("Backing file '{}' creates an infinite loop.", path));
}

}  // namespace

Task<Exit> image_info(const Context& context, ImageInfoOptions options) {
  ImageAccess access;
  access.force_share = options.force_share;
  access.below = false;
  access.trust_content = true;                           // nothing else is opened
  ImageName at = options.image;
  Json chain = Json::array();
  std::set<std::pair<std::uint64_t, std::uint64_t>> seen;
  for (;;) {
    Json info = co_await info_of(context, at, access);
    const std::string backing = text(info, "backing-filename"), format = text(info, "backing-filename-format");
    chain.push_back(std::move(info));
    const auto path = local_path(at.name);
    if (!options.backing_chain || !path) break;
    co_await check_new(context.reactor, *path, seen);
    if (backing.empty() || at.alone) break;
    at = co_await backing_of(context.reactor, *path, backing, format);
    access.trust_content = false;
  }
  if (context.json) {
    print_json(options.backing_chain ? chain : chain.as_array().front());
    co_return Exit::ok;
  }
  std::string out;
  for (const Json& info : chain.as_array()) out += (out.empty() ? "" : "\n") + human(info);
  print_lines(out);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
