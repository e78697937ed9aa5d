#include "tracking/identity.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <utility>

#include "io/aligned.hpp"
#include "tracking/checksum.hpp"
#include "tracking/device_names.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t text_max = 256;

std::string shortened(const std::string& text) { return text.substr(0, text_max); }

Task<std::vector<Canary>> read_canaries(File& file, std::uint64_t size, std::vector<std::uint64_t> places) {
  std::vector<Canary> canaries;
  AlignedBuffer buffer(ImageIdentity::canary_bytes);
  for (const std::uint64_t place : places) {
    if (!fits(place, ImageIdentity::canary_bytes, size)) continue;
    Canary canary{place, 0};
    co_await file.read(canary.offset, buffer.bytes());
    canary.sum = checksum(buffer.bytes(), 0);
    canaries.push_back(canary);
  }
  co_return std::move(canaries);
}

Task<std::vector<Canary>> canaries_by(Reactor& reactor, std::string device, std::uint64_t size, std::vector<std::uint64_t> places,
                                      bool direct) {
  OpenFlags reading;
  reading.direct = direct;
  File file = co_await File::open(reactor, std::move(device), reading);
  auto read = co_await read_canaries(file, size, std::move(places)).result();
  co_await file.close();
  co_return co_await unwrap(std::move(read));
}

// Past the page cache: as long as anybody has a device open it shows what was there, whoever else has written to it.
Task<std::vector<Canary>> canaries_of(Reactor& reactor, std::string device, std::uint64_t size, std::vector<std::uint64_t> places) {
  auto read = co_await canaries_by(reactor, device, size, places, true).result();
  const bool refused = !read && read.error().os_errno() == EINVAL;
  if (refused) read = co_await canaries_by(reactor, std::move(device), size, std::move(places), false).result();
  co_return co_await unwrap(std::move(read));
}

// Numbers with blanks between them.
std::vector<std::uint64_t> numbers(std::string_view line) {
  std::vector<std::uint64_t> found;
  const char* at = line.data();
  const char* const end = at + line.size();
  while (at != end) {
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(at, end, number);
    if (error == std::errc()) found.push_back(number);
    at = error == std::errc() ? rest : at + 1;
  }
  return found;
}

// A device that is taken away and comes back, an LVM volume say, counts from nothing: under another number of its own.
Task<DeviceWrites> written_to(Reactor& reactor, std::string device) {
  constexpr std::size_t sectors_written = 6, sectors_discarded = 13;
  const std::string disk = co_await disk_of(reactor, device);
  const std::string boot = co_await boot_id(reactor);
  const std::string number = co_await first_line(reactor, disk + "/diskseq");
  const std::string counting = co_await first_line(reactor, disk + "/queue/iostats");
  const auto counts = numbers(co_await first_line(reactor, device + "/stat"));
  DeviceWrites writes;
  if (!boot.empty()) writes.since = boot + ' ' + number;
  const bool counted = counts.size() > sectors_discarded && counting != "0";
  writes.sectors = counted ? counts[sectors_written] + counts[sectors_discarded] : DeviceWrites::not_counted;
  co_return std::move(writes);
}

// What tells of writes to a device, whoever made them, but for its content.
Task<ImageIdentity> with_traces(Reactor& reactor, std::string device, ImageIdentity identity) {
  const FileInfo info = co_await fs::stat(reactor, device);
  const std::string told = told_of(info);
  const std::optional<FileInfo> shown = co_await file_of_loop(reactor, told, std::move(device));
  identity.device = shown ? shown->device : 0;             // numbers of devices change from boot to boot
  identity.change_time_ns = shown ? shown->change_time_ns : 0;
  identity.inode = co_await start_of(reactor, told);
  identity.writes = co_await written_to(reactor, told);
  co_return std::move(identity);
}

// Numbers of files that are gone are given to new ones, and those of file systems are given anew.
bool is_other_file(const ImageIdentity& before, const ImageIdentity& now, bool clean, bool mounted) {
  const bool born_known = before.birth_time_ns != 0 && now.birth_time_ns != 0;
  if (before.inode != now.inode) return true;
  if (born_known && before.birth_time_ns != now.birth_time_ns) return true;
  const bool known_otherwise = born_known || clean;      // by its change time
  return before.device != now.device && (mounted || !known_otherwise);
}

struct Since {
  std::string_view boot, disk;
};

Since since_of(const DeviceWrites& writes) {
  const std::string_view all = writes.since;
  const std::size_t blank = all.rfind(' ');
  if (blank == std::string_view::npos) return {all, {}};
  return {all.substr(0, blank), all.substr(blank + 1)};
}

std::optional<std::string> other_device(const ImageIdentity& before, const ImageIdentity& now, bool clean, bool mounted) {
  const bool both_parts = before.inode != 0 && now.inode != 0;
  if (both_parts && before.inode != now.inode) return "the image is another part of its disk than the store's";
  // An older state of a loop device's file has its name, too.
  const bool placed = before.device != 0 && now.device != 0;
  if (mounted && placed && before.device != now.device) return "the image is another device than the store's";
  const bool both_have = !before.stable_id.empty() && !now.stable_id.empty();
  if (both_have && !has_name(now, before.stable_id)) return "the image is another device than the store's";
  if (both_have && telling_of(before.stable_id) < Telling::named) return std::nullopt;
  const Since was = since_of(before.writes), is = since_of(now.writes);
  if (was.boot.empty() || is.boot.empty()) return std::nullopt;
  if (was.boot == is.boot && was.disk != is.disk) return "the image is another device than the store's, or was taken away meanwhile";
  if (was.boot != is.boot && !clean && !both_have) return "the host went down, and the device has no name that tells it from others";
  return std::nullopt;
}

std::optional<std::string> other_count(const DeviceWrites& before, const DeviceWrites& now) {
  const bool counted = before.sectors != DeviceWrites::not_counted && now.sectors != DeviceWrites::not_counted;
  if (!counted || before.since.empty() || before.since != now.since) return std::nullopt;
  if (before.sectors < now.sectors) return "the device was written while the store was closed";
  if (before.sectors > now.sectors) return "the device was made anew while the store was closed: the kernel counts its writes anew";
  return std::nullopt;
}

}  // namespace

bool has_name(const ImageIdentity& now, const std::string& stable_id) {
  const auto is = [&](const std::string& name) { return shortened(name) == stable_id; };
  return now.stable_id == stable_id || std::any_of(now.names.begin(), now.names.end(), is);
}

void ImageIdentity::encode(Encoder& to) const {
  to.put(std::uint8_t{is_device}).put(device).put(inode).put(size);
  to.put(static_cast<std::uint64_t>(change_time_ns)).put(static_cast<std::uint64_t>(birth_time_ns));
  to.text(shortened(stable_id));
  to.put(static_cast<std::uint16_t>(canaries.size()));
  for (const Canary& canary : canaries) to.put(canary.offset).put(canary.sum);
}

ImageIdentity ImageIdentity::decode(Decoder& from) {
  ImageIdentity identity;
  identity.is_device = from.get<std::uint8_t>() != 0;
  identity.device = from.get<std::uint64_t>();
  identity.inode = from.get<std::uint64_t>();
  identity.size = from.get<std::uint64_t>();
  identity.change_time_ns = static_cast<std::int64_t>(from.get<std::uint64_t>());
  identity.birth_time_ns = static_cast<std::int64_t>(from.get<std::uint64_t>());
  identity.stable_id = from.text();
  const auto canaries = from.get<std::uint16_t>();
  for (std::uint16_t i = 0; i < canaries && from.ok(); ++i) {
    Canary canary;
    canary.offset = from.get<std::uint64_t>();
    canary.sum = from.get<std::uint64_t>();
    identity.canaries.push_back(canary);
  }
  return identity;
}

std::vector<std::uint64_t> places_over(std::uint64_t size) {
  const std::uint64_t blocks = size / ImageIdentity::canary_bytes;
  const std::uint64_t count = std::min<std::uint64_t>(blocks, ImageIdentity::canaries_max);
  std::vector<std::uint64_t> places;
  for (std::uint64_t i = 0; i < count; ++i)
    places.push_back((count == 1 ? 0 : (blocks - 1) / (count - 1) * i) * ImageIdentity::canary_bytes);
  return places;
}

// The bitmap with the least tells of the latest; where all of its granules are too many, some over the disk.
std::vector<std::uint64_t> places_written(const NodeBitmaps& bitmaps) {
  const DirtyBitmap* latest = nullptr;
  for (const auto& bitmap : bitmaps.all()) {
    const DirtyBitmap& bits = bitmap->bits();
    if (bitmap->inconsistent() || bits.empty()) continue;
    if (!latest || bits.count() * bits.granularity() < latest->count() * latest->granularity()) latest = &bits;
  }
  std::vector<std::uint64_t> places;
  if (!latest) return places;
  // Each granule at some places of it, or some granules over the disk.
  const std::uint64_t grain = latest->granularity(), each = std::max<std::uint64_t>(1, ImageIdentity::canaries_max / latest->count());
  const std::uint64_t apart = std::max(grain / each, ImageIdentity::canary_bytes);
  const std::uint64_t step = latest->count() > ImageIdentity::canaries_max ? latest->size() / ImageIdentity::canaries_max : apart;
  std::optional<std::uint64_t> at = latest->next_dirty(0);
  while (at && places.size() < ImageIdentity::canaries_max) {
    places.push_back(align_down(*at, ImageIdentity::canary_bytes));
    const std::uint64_t next = (*at / step + 1) * step;
    at = next < latest->size() ? latest->next_dirty(next) : std::nullopt;
  }
  return places;
}

Task<ImageIdentity> identify(Reactor& reactor, std::string image, std::vector<std::string> names, std::vector<std::uint64_t> places) {
  const FileInfo info = co_await fs::stat(reactor, image);
  ImageIdentity identity;
  identity.is_device = info.type == FileInfo::Type::block_device;
  identity.size = info.size;
  if (!identity.is_device) {
    identity.device = info.device;
    identity.inode = info.inode;
    identity.change_time_ns = info.change_time_ns;
    identity.birth_time_ns = info.birth_time_ns;
    co_return identity;
  }
  if (!names.empty()) identity.stable_id = shortened(names.front());
  identity.names = std::move(names);
  identity = co_await with_traces(reactor, image, std::move(identity));
  if (places.empty()) places = places_over(info.size);
  identity.canaries = co_await canaries_of(reactor, std::move(image), info.size, std::move(places));
  co_return identity;
}

Task<ImageIdentity> identify_by(Reactor& reactor, std::string device, ImageIdentity now, std::vector<Canary> before) {
  std::vector<std::uint64_t> places;
  for (const Canary& canary : before) places.push_back(canary.offset);
  now.canaries = co_await canaries_of(reactor, device, now.size, std::move(places));
  co_return co_await with_traces(reactor, std::move(device), std::move(now));
}

Task<ImageIdentity> identify_durably(Reactor& reactor, std::string image, std::vector<std::string> names,
                                     std::vector<std::uint64_t> places) {
  const OpenFlags reading;
  File file = co_await File::open(reactor, image, reading);
  const Result<> synced = co_await file.sync().result();
  co_await file.close();
  co_await unwrap(synced);
  co_return co_await identify(reactor, std::move(image), std::move(names), std::move(places));
}

std::optional<std::string> difference(const ImageIdentity& before, const ImageIdentity& now, bool clean, bool mounted) {
  if (before.is_device != now.is_device) return "the image was a file and is a device, or the other way round";
  if (before.is_device) {
    if (auto why = other_device(before, now, clean, mounted)) return why;
  } else if (is_other_file(before, now, clean, mounted)) {
    return "the image is another file than the store's";
  }
  if (!clean) return std::nullopt;
  if (before.size != now.size) return "the image's size changed while the store was closed";
  const bool timed = !before.is_device || (before.change_time_ns != 0 && now.change_time_ns != 0);
  if (timed && before.change_time_ns != now.change_time_ns) return "the image was changed while the store was closed";
  if (auto why = other_count(before.writes, now.writes)) return why;
  if (before.canaries != now.canaries) return "the device's content changed while the store was closed";
  return std::nullopt;
}

Task<std::string> boot_id(Reactor& reactor) {
  co_return co_await first_line(reactor, "/proc/sys/kernel/random/boot_id");
}

}  // namespace tidemark::tracking
