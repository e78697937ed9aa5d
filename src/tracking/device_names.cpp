#include "tracking/device_names.hpp"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <utility>

#include "base/units.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t line_max = 4096;

bool begins(std::string_view text, std::initializer_list<std::string_view> with) {
  return std::any_of(with.begin(), with.end(), [&](std::string_view start) { return text.starts_with(start); });
}

std::optional<std::uint64_t> number_in(std::string_view line) {
  std::uint64_t number = 0;
  const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc() || rest != line.data() + line.size()) return std::nullopt;
  return number;
}

// A number that was never given is all zeroes.
bool is_given(std::string_view number) { return number.find_first_not_of("0-") != std::string_view::npos; }

// What udev leaves as it is in the names of links; anything else becomes '_'.
std::string as_udev(std::string name) {
  const auto safe = [](char c) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    return plain || std::string_view("#+-.:=@_\\").find(c) != std::string_view::npos;
  };
  std::replace_if(name.begin(), name.end(), [&](char c) { return !safe(c); }, '_');
  return name;
}

// What names one thing well, and the text that stands before it in the name.
struct Source {
  const char* file;
  const char* prefix;
  bool is_number;                         // of which all zeroes say nothing
};
constexpr Source sources[] = {
    {"/dm/uuid", "dm-uuid-", false},
    {"/dm/name", "dm-name-", false},
    {"/md/uuid", "md-uuid-", true},
};

// A world-wide name of SCSI's or NVMe's.  Serial numbers, which are often given twice, are left to udev, which gives a link to one
// device only.
std::optional<std::string> world_wide_name(const std::string& scsi, const std::string& nvme) {
  if (begins(nvme, {"uuid.", "eui."}) && is_given(std::string_view(nvme).substr(nvme.find('.') + 1))) return "nvme-" + nvme;
  if (begins(scsi, {"naa.", "eui."}) && is_given(std::string_view(scsi).substr(4))) return "wwn-0x" + scsi.substr(4);
  return std::nullopt;
}

// Ceph gives numbers of pools and images once; a snapshot is another disk than its image.
Task<std::optional<std::string>> rbd_name(Reactor& reactor, std::string disk) {
  const std::string cluster = co_await first_line(reactor, disk + "/device/cluster_fsid");
  const std::string pool = co_await first_line(reactor, disk + "/device/pool_id");
  const std::string space = co_await first_line(reactor, disk + "/device/pool_ns");
  const std::string image = co_await first_line(reactor, disk + "/device/image_id");
  const std::string snapshot = co_await first_line(reactor, disk + "/device/current_snap");
  if (!is_given(cluster) || pool.empty() || image.empty() || snapshot.empty()) co_return std::nullopt;
  std::string name = "rbd-" + cluster + '-' + pool + '-';
  if (!space.empty()) name += space + '-';
  name += image;
  if (snapshot != "-") name += '@' + snapshot;
  co_return std::move(name);
}

Task<std::string> loop_name(Reactor& reactor, std::string disk, std::uint64_t inode, std::int64_t birth) {
  const std::string offset = co_await first_line(reactor, disk + "/loop/offset");
  const std::string limit = co_await first_line(reactor, disk + "/loop/sizelimit");
  co_return "loop-" + std::to_string(inode) + '-' + std::to_string(birth) + '-' + offset + '-' + limit;
}

// cryptsetup's UUIDs of mappings end with their name; those of a volume that has no UUID of its own say nothing else of it.
bool is_mapping_of_no_uuid(std::string_view name) {
  constexpr std::string_view prefix = "dm-uuid-CRYPT-";
  constexpr std::size_t digits = 32;
  if (!name.starts_with(prefix)) return false;
  const std::string_view rest = name.substr(prefix.size()), of_volume = rest.substr(std::min(rest.find('-'), rest.size() - 1) + 1);
  const std::size_t given = std::min(of_volume.find_first_not_of("0123456789abcdefABCDEF"), of_volume.size());
  return given != digits || !of_volume.substr(digits).starts_with('-');
}

}  // namespace

Telling telling_of(std::string_view name) {
  if (name.empty()) return Telling::nothing;
  if (is_mapping_of_no_uuid(name)) return Telling::named;
  if (begins(name, {"dm-uuid-", "md-uuid-", "wwn-", "nvme-eui.", "nvme-uuid.", "rbd-", "loop-"})) return Telling::made;
  if (begins(name, {"dm-name-", "md-name-", "lvm-pv-uuid-"})) return Telling::named;
  return Telling::identified;
}

std::vector<std::string> surest_first(std::vector<std::string> names) {
  std::sort(names.begin(), names.end(), [](const std::string& a, const std::string& b) {
    return std::pair(telling_of(a), std::string_view(a)) < std::pair(telling_of(b), std::string_view(b));
  });
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

Task<std::vector<std::string>> names_by_kernel(Reactor& reactor, std::string told, std::optional<FileInfo> shown) {
  const std::string partition = co_await first_line(reactor, told + "/partition");
  const std::string disk = co_await disk_of(reactor, told);
  std::vector<std::string> names;
  for (const Source& source : sources) {
    const std::string text = co_await first_line(reactor, disk + source.file);
    if (text.empty() || (source.is_number && !is_given(text))) continue;
    names.push_back(source.prefix + text);
  }
  const std::string scsi = co_await first_line(reactor, disk + "/device/wwid");
  const std::string nvme = co_await first_line(reactor, disk + "/wwid");
  const auto rbd = co_await rbd_name(reactor, disk);
  const std::optional<std::string> world_wide = world_wide_name(scsi, nvme);
  if (world_wide) names.push_back(*world_wide);
  if (rbd) names.push_back(*rbd);
  if (shown) names.push_back(co_await loop_name(reactor, disk, shown->inode, shown->birth_time_ns));
  for (std::string& name : names) name = as_udev(partition.empty() ? name : name + "-part" + partition);
  co_return std::move(names);
}

Task<std::optional<FileInfo>> file_of_loop(Reactor& reactor, std::string told, std::string device) {
  const std::string disk = co_await disk_of(reactor, told);
  const std::string path = co_await first_line(reactor, disk + "/loop/backing_file");
  if (path.empty()) co_return std::nullopt;
  const auto shown = co_await file_of_loop_device(reactor, std::move(device));
  if (!shown) co_return std::nullopt;
  co_return co_await file_seen(reactor, std::move(told), *shown);
}

// The kernel tells the file's path as it is for whoever asks: another file may be there for this process, in a container say.
Task<std::optional<FileInfo>> file_seen(Reactor& reactor, std::string told, LoopFile shown) {
  const std::string disk = co_await disk_of(reactor, std::move(told));
  std::string path = co_await first_line(reactor, disk + "/loop/backing_file");
  const auto file = co_await fs::stat(reactor, std::move(path)).result();
  if (!file || file->type != FileInfo::Type::regular || file->birth_time_ns == 0) co_return std::nullopt;
  if (file->device != shown.device || file->inode != shown.inode) co_return std::nullopt;
  co_return *file;
}

Task<std::string> disk_of(Reactor& reactor, std::string told) {
  const std::string partition = co_await first_line(reactor, told + "/partition");
  if (!partition.empty()) told += "/..";
  co_return std::move(told);
}

Task<std::uint64_t> start_of(Reactor& reactor, std::string told) {
  const std::string partition = co_await first_line(reactor, told + "/partition");
  if (partition.empty()) co_return 0;
  const std::string start = co_await first_line(reactor, told + "/start");
  co_return number_in(start).value_or(0);
}

std::string told_of(const FileInfo& device) {
  return "/sys/dev/block/" + std::to_string(device.device_major) + ':' + std::to_string(device.device_minor);
}

Task<std::string> first_line(Reactor& reactor, std::string path) {
  const auto content = co_await fs::read_all(reactor, std::move(path), line_max).result();
  co_return content ? content->substr(0, content->find('\n')) : std::string();
}

}  // namespace tidemark::tracking
