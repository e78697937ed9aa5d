#include "tracking/superblock.hpp"

#include "tracking/checksum.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::string_view magic = "TMTRACK1";
constexpr std::uint32_t format = 1, format_with_groups = 2;
constexpr std::size_t sum_at = Superblock::bytes - sizeof(std::uint64_t);
constexpr std::uint64_t catalogue_max = 1 * GiB;

bool possible(const Superblock& root) {
  const auto placed = [&](std::uint64_t at) {
    return is_aligned(at, Superblock::bytes) && at >= root.data_start() &&
           fits(at, root.catalogue_bytes, max_disk_size);
  };
  return root.log_bytes >= Superblock::bytes && root.log_bytes <= Superblock::log_bytes_max &&
         is_aligned(root.log_bytes, Superblock::bytes) && root.catalogue_bytes <= catalogue_max &&
         placed(root.catalogue[0]) && placed(root.catalogue[1]) && root.mode <= Mode::off &&
         root.log_epoch < ~std::uint64_t{0} / 2;
}

}  // namespace

std::vector<std::byte> Superblock::encode() const {
  Encoder to;
  to.put(as_bytes(magic)).put(about_groups ? format_with_groups : format).put(std::uint32_t{0});
  to.put(store_id).put(version).put(generation);
  to.put(static_cast<std::uint8_t>(mode)).put(std::uint8_t{clean}).put(std::uint8_t{lost}).put(std::uint8_t{marked});
  to.put(log_bytes).put(log_epoch);
  to.put(catalogue[0]).put(catalogue[1]).put(catalogue_bytes).put(catalogue_sum);
  to.text(boot_id.substr(0, 64)).text(layer.substr(0, 64));
  image.encode(to);
  to.put(digest).put(image.writes.sectors).text(image.writes.since);
  to.put(std::uint8_t{closed}).put(mark);
  std::vector<std::byte> block = to.bytes();
  TM_ASSERT(block.size() <= sum_at);
  block.resize(bytes);
  store_le(block.data() + sum_at, checksum(Bytes(block).first(sum_at), 0));
  return block;
}

void Superblock::sign(MutableBytes block) noexcept {
  const Bytes name = as_bytes(magic);
  std::copy(name.begin(), name.end(), block.begin());
}

bool Superblock::is_signed(Bytes block) noexcept { return as_text(block.first(magic.size())) == magic; }

Result<std::optional<Superblock>> Superblock::decode(Bytes block) {
  if (block.size() != bytes || !is_signed(block)) return std::optional<Superblock>();
  if (load_le<std::uint64_t>(block.data() + sum_at) != checksum(block.first(sum_at), 0))
    return std::optional<Superblock>();
  Decoder from(block.subspan(magic.size(), sum_at - magic.size()));
  const auto format_of_this = from.get<std::uint32_t>();
  if (format_of_this != format && format_of_this != format_with_groups)
    return Error(Errc::unsupported, "tracking store of version " + std::to_string(format_of_this));
  (void)from.get<std::uint32_t>();
  Superblock root;
  root.about_groups = format_of_this == format_with_groups;
  root.store_id = from.get<std::uint64_t>();
  root.version = from.get<std::uint64_t>();
  root.generation = from.get<std::uint64_t>();
  root.mode = static_cast<Mode>(from.get<std::uint8_t>());
  root.clean = from.get<std::uint8_t>() != 0;
  root.lost = from.get<std::uint8_t>() != 0;
  root.marked = from.get<std::uint8_t>() != 0;
  root.log_bytes = from.get<std::uint64_t>();
  root.log_epoch = from.get<std::uint64_t>();
  for (auto& at : root.catalogue) at = from.get<std::uint64_t>();
  root.catalogue_bytes = from.get<std::uint64_t>();
  root.catalogue_sum = from.get<std::uint64_t>();
  root.boot_id = from.text();
  root.layer = from.text();
  root.image = ImageIdentity::decode(from);
  root.digest = from.get<std::uint64_t>();
  root.image.writes.sectors = from.get<std::uint64_t>();      // zeroes in a root of an older program
  root.image.writes.since = from.text();
  root.closed = from.get<std::uint8_t>() != 0;
  root.mark = from.get<std::uint32_t>();
  if (!from.ok() || !possible(root)) return Error(Errc::corrupt, "superblock of a tracking store makes no sense");
  return std::optional<Superblock>(std::move(root));
}

}  // namespace tidemark::tracking
