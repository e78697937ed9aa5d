#include "tracking/identity.hpp"

#include <algorithm>

#include "io/aligned.hpp"
#include "tracking/checksum.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t text_max = 256;

std::string shortened(const std::string& text) { return text.substr(0, text_max); }

Task<> read_canaries(File& file, ImageIdentity& identity) {
  const std::uint64_t blocks = identity.size / ImageIdentity::canary_bytes;
  const std::uint64_t count = std::min<std::uint64_t>(blocks, ImageIdentity::canaries_max);
  AlignedBuffer buffer(ImageIdentity::canary_bytes);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t block = count == 1 ? 0 : (blocks - 1) / (count - 1) * i;
    Canary canary{block * ImageIdentity::canary_bytes, 0};
    co_await file.read(canary.offset, buffer.bytes());
    canary.sum = checksum(buffer.bytes(), 0);
    identity.canaries.push_back(canary);
  }
}

}  // namespace

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

Task<ImageIdentity> identify(Reactor& reactor, std::string image, std::string stable_id) {
  const FileInfo info = co_await fs::stat(reactor, image);
  ImageIdentity identity;
  identity.is_device = info.type == FileInfo::Type::block_device;
  identity.size = info.size;
  identity.device = info.device;
  if (!identity.is_device) {
    identity.inode = info.inode;
    identity.change_time_ns = info.change_time_ns;
    identity.birth_time_ns = info.birth_time_ns;
    co_return identity;
  }
  identity.device = 0;                    // numbers of devices change from boot to boot
  identity.stable_id = shortened(stable_id);
  const OpenFlags reading;
  File file = co_await File::open(reactor, std::move(image), reading);
  const Result<> read = co_await read_canaries(file, identity).result();
  co_await file.close();
  co_await unwrap(read);
  co_return identity;
}

Task<ImageIdentity> identify_durably(Reactor& reactor, std::string image, std::string stable_id) {
  const OpenFlags reading;
  File file = co_await File::open(reactor, image, reading);
  const Result<> synced = co_await file.sync().result();
  co_await file.close();
  co_await unwrap(synced);
  co_return co_await identify(reactor, std::move(image), std::move(stable_id));
}

std::optional<std::string> difference(const ImageIdentity& before, const ImageIdentity& now, bool clean) {
  if (before.is_device != now.is_device) return "the image was a file and is a device, or the other way round";
  // Numbers of files that are gone are given to new ones.
  const bool born_known = before.birth_time_ns != 0 && now.birth_time_ns != 0;
  const bool reborn = born_known && before.birth_time_ns != now.birth_time_ns;
  if (before.device != now.device || before.inode != now.inode || reborn)
    return "the image is another file than the store's";
  if (!before.stable_id.empty() && !now.stable_id.empty() && before.stable_id != now.stable_id)
    return "the image is another device than the store's";
  if (!clean) return std::nullopt;
  if (before.size != now.size) return "the image's size changed while the store was closed";
  if (before.change_time_ns != now.change_time_ns) return "the image was changed while the store was closed";
  if (before.canaries != now.canaries) return "the device's content changed while the store was closed";
  return std::nullopt;
}

Task<std::string> boot_id(Reactor& reactor) {
  const std::string path = "/proc/sys/kernel/random/boot_id";
  auto content = co_await fs::read_all(reactor, path, text_max).result();
  if (!content) co_return std::string();
  std::string id = *std::move(content);
  while (!id.empty() && id.back() == '\n') id.pop_back();
  co_return id;
}

}  // namespace tidemark::tracking
