#include "backup/manifest.hpp"

#include <algorithm>
#include <cctype>
#include <chrono>

#include <fmt/format.h>

namespace tidemark {
namespace {

constexpr std::string_view format_name = "tidemark-point";
constexpr int format_version = 1;
constexpr std::uint64_t granularity_max = 2 * MiB;     // it is read at a time, by each of a few workers
constexpr std::string_view digest_prefix = "xxh3-128:";

std::string digest_text(const Digest& digest) { return std::string(digest_prefix) + digest.to_hex(); }

// Takes members of one JSON object; remembers the first thing that was wrong.
class Reader {
 public:
  Reader(const Json& object, std::string_view where) : object_(object), where_(where) {
    if (!object.is_object()) fail("is not an object");
  }
  std::string text(std::string_view key) {
    const Json* value = member(key);
    if (value && value->is_string()) return value->as_string();
    fail(fmt::format("'{}' is not a string", key));
    return {};
  }
  std::optional<std::string> text_or_null(std::string_view key) {
    const Json* value = member(key);
    if (value && value->is_null()) return std::nullopt;
    return text(key);
  }
  std::uint64_t number(std::string_view key, std::uint64_t max) {
    std::uint64_t n = 0;
    const Json* value = member(key);
    if (!value || !value->to_uint64(n) || n > max) fail(fmt::format("'{}' is not a number up to {}", key, max));
    return n;
  }
  Digest digest(std::string_view key) {
    Digest d;
    const std::string value = text(key);
    if (!value.starts_with(digest_prefix) || !Digest::from_hex(std::string_view(value).substr(digest_prefix.size()), d))
      fail(fmt::format("'{}' is not a digest", key));
    return d;
  }
  const Json* member(std::string_view key) const { return object_.is_object() ? object_.find(key) : nullptr; }
  void fail(std::string what) {
    if (ok_) ok_ = Error(Errc::corrupt, fmt::format("{}: {}", where_, what));
  }
  const Result<>& outcome() const { return ok_; }

 private:
  const Json& object_;
  std::string where_;
  Result<> ok_;
};

bool valid_name(std::string_view name) noexcept {
  auto legal = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.'; };
  return !name.empty() && name.size() <= 64 && name[0] != '.' && std::all_of(name.begin(), name.end(), legal);
}

Json disk_to_json(const DiskManifest& disk) {
  Json json = Json::object({{"name", disk.name},
                            {"node", disk.node},
                            {"size", disk.size},
                            {"base", disk.base ? Json(*disk.base) : Json()},
                            {"image", disk.image_file()},
                            {"sums", disk.sums_file()},
                            {"sums-digest", digest_text(disk.sums_digest)},
                            {"granularity", disk.granularity},
                            {"stored-bytes", disk.stored_bytes},
                            {"bitmap", disk.bitmap}});
  if (!disk.identity.empty()) json.set("identity", disk.identity);
  if (!disk.checkpoint.empty()) json.set("checkpoint", disk.checkpoint);
  return json;
}

Result<DiskManifest> parse_disk(const Json& json) {
  Reader reader(json, "manifest: disk");
  DiskManifest disk;
  disk.name = reader.text("name");
  disk.node = reader.text("node");
  disk.size = reader.number("size", max_disk_size);
  disk.base = reader.text_or_null("base");
  disk.granularity = static_cast<std::uint32_t>(reader.number("granularity", granularity_max));
  disk.stored_bytes = reader.number("stored-bytes", max_disk_size);
  disk.sums_digest = reader.digest("sums-digest");
  disk.bitmap = reader.text("bitmap");
  if (reader.member("identity")) disk.identity = reader.text("identity");
  if (reader.member("checkpoint")) disk.checkpoint = reader.text("checkpoint");
  if (!disk.identity.empty() && !valid_point_id(disk.identity)) reader.fail("'identity' is not a point's id");
  if (!valid_disk_name(disk.name)) reader.fail("'name' is not a disk's name");
  if (disk.base && !valid_point_id(*disk.base)) reader.fail("'base' is not a point's id");
  if (disk.granularity < 512 || !is_power_of_two(disk.granularity)) reader.fail("'granularity' is not a power of two");
  if (reader.text("image") != disk.image_file()) reader.fail("'image' is not the name of the disk's image");
  if (reader.text("sums") != disk.sums_file()) reader.fail("'sums' is not the name of the disk's sums file");
  if (!reader.outcome()) return reader.outcome().error();
  return disk;
}

std::string time_text(std::int64_t ns, const char* form) {
  using namespace std::chrono;
  const sys_time<nanoseconds> t{nanoseconds(ns)};
  const auto day = floor<days>(t);
  const year_month_day date(day);
  const hh_mm_ss clock(floor<milliseconds>(t - day));
  return fmt::format(fmt::runtime(form), int(date.year()), unsigned(date.month()), unsigned(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count(),
                     clock.subseconds().count());
}

}  // namespace

const DiskManifest* PointManifest::find(std::string_view disk) const noexcept {
  for (const auto& d : disks)
    if (d.name == disk) return &d;
  return nullptr;
}

bool PointManifest::full() const noexcept {
  return std::none_of(disks.begin(), disks.end(), [](const auto& d) { return d.base.has_value(); });
}

std::string to_text(const PointManifest& manifest) {
  Json disks = Json::array();
  for (const auto& disk : manifest.disks) disks.push_back(disk_to_json(disk));
  Json json = Json::object({{"format", format_name},
                            {"version", format_version},
                            {"id", manifest.id},
                            {"time", utc_time(manifest.time_ns)},
                            {"time-ns", manifest.time_ns},
                            {"seconds", manifest.seconds},
                            {"disks", std::move(disks)},
                            {"machine", manifest.machine}});
  // The digest covers the compact text of all other members in their order.
  json.set("digest", digest_text(Digest::of(as_bytes(to_text(json)))));
  return to_text(json, 2) + "\n";
}

Result<PointManifest> parse_manifest(std::string_view text) {
  auto parsed = parse_json(text);
  if (!parsed) return parsed.error().with_context("manifest");
  Json& json = *parsed;
  Reader reader(json, "manifest");
  if (reader.text("format") != format_name) reader.fail("'format' is not tidemark-point");
  if (!reader.outcome()) return reader.outcome().error();
  if (reader.number("version", UINT32_MAX) != format_version)
    return Error(Errc::unsupported, "manifest: version is newer than this program; use a newer one");
  const Digest digest = reader.digest("digest");
  PointManifest manifest;
  manifest.id = reader.text("id");
  if (!valid_point_id(manifest.id)) reader.fail("'id' is not a point's id");
  manifest.time_ns = static_cast<std::int64_t>(reader.number("time-ns", INT64_MAX));
  if (const Json* seconds = reader.member("seconds"); seconds && seconds->is_number()) manifest.seconds = seconds->as_double();
  if (const Json* machine = reader.member("machine")) manifest.machine = *machine;
  const Json* disks = reader.member("disks");
  if (!disks || !disks->is_array() || disks->as_array().empty()) reader.fail("'disks' is not a list");
  if (!reader.outcome()) return reader.outcome().error();
  for (const Json& entry : disks->as_array()) {
    auto disk = parse_disk(entry);
    if (!disk) return disk.error();
    if (manifest.find(disk->name)) return Error(Errc::corrupt, "manifest: disk '" + disk->name + "' is there twice");
    manifest.disks.push_back(*std::move(disk));
  }
  json.remove("digest");
  if (Digest::of(as_bytes(to_text(json))) != digest)
    return Error(Errc::corrupt, "manifest: its digest does not match its content");
  return manifest;
}

namespace {

// What its lines' indentation takes, at most.
std::uint64_t indentation(const Json& json, std::uint64_t depth) {
  std::uint64_t bytes = 2 * depth + 3;
  if (json.is_array())
    for (const Json& item : json.as_array()) bytes += indentation(item, depth + 1);
  if (json.is_object())
    for (const auto& member : json.as_object()) bytes += indentation(member.second, depth + 1);
  return bytes + (json.is_array() || json.is_object() ? 2 * depth + 3 : 0);
}

}  // namespace

Result<> check_machine(const Json& machine) {
  constexpr std::uint64_t room_for_disks = 1 * MiB;
  constexpr int disks_max = 512;                           // with more of them it may yet be refused when it is published
  if (indentation(machine, 1) + to_text(machine).size() > manifest_size_max - room_for_disks)
    return Error(Errc::invalid_argument, "is too large to be kept with a point");
  PointManifest manifest;
  manifest.id = "any";
  manifest.machine = machine;
  for (int i = 0; i < disks_max; ++i) {
    DiskManifest disk;
    disk.name = fmt::format("any{}", i);
    disk.granularity = 64 * KiB;
    manifest.disks.push_back(std::move(disk));
  }
  if (const auto read = parse_manifest(to_text(manifest)); !read)
    return Error(Errc::invalid_argument, "cannot be kept with a point: " + read.error().message());
  return {};
}

std::string utc_time(std::int64_t ns) { return time_text(ns, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z"); }
std::string utc_time_compact(std::int64_t ns) { return time_text(ns, "{:04}{:02}{:02}T{:02}{:02}{:02}.{:03}Z"); }
bool valid_disk_name(std::string_view name) noexcept { return valid_name(name); }
bool valid_point_id(std::string_view id) noexcept { return valid_name(id); }

}  // namespace tidemark
