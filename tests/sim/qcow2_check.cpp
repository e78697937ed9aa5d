#include "tests/sim/qcow2_check.hpp"

#include <map>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/units.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t offset_mask = 0x00fffffffffffe00, compressed = std::uint64_t{1} << 62, copied = std::uint64_t{1} << 63;

class Image {
 public:
  explicit Image(const SparseContent& file) : file_(file) {}

  Result<> check() {
    if (file_.size() < 104 || number<std::uint32_t>(0) != 0x514649fb) return Error(Errc::corrupt, "no qcow2 image");
    cluster_bits_ = number<std::uint32_t>(20);
    if (cluster_bits_ < 9 || cluster_bits_ > 21) return Error(Errc::corrupt, "cluster bits");
    const std::uint64_t l1_entries = number<std::uint32_t>(36), l1 = number<std::uint64_t>(40);
    const std::uint64_t table = number<std::uint64_t>(48), table_clusters = number<std::uint32_t>(56);
    use(0, cluster());
    use(l1, l1_entries * 8);
    use(table, table_clusters * cluster());
    for (std::uint64_t i = 0; i < table_clusters * cluster() / 8; ++i)
      if (const std::uint64_t block = number<std::uint64_t>(table + i * 8)) count_block(i, block);
    for (std::uint64_t i = 0; i < l1_entries; ++i)
      if (const std::uint64_t entry = number<std::uint64_t>(l1 + i * 8)) look_at_l2(entry);
    if (autoclear() & 1) look_at_bitmaps();
    for (const auto& [at, times] : used_) compare(at, times);
    return outcome();
  }

  Result<std::vector<StoredBitmap>> bitmaps() {
    cluster_bits_ = number<std::uint32_t>(20);
    if (autoclear() & 1) look_at_bitmaps();
    if (auto ok = outcome(); !ok) return ok.error();
    return std::move(bitmaps_);
  }
  std::uint64_t autoclear() { return number<std::uint32_t>(4) < 3 ? 0 : number<std::uint64_t>(88); }

 private:
  Result<> outcome() const {
    if (wrong_.empty()) return {};
    return Error(Errc::corrupt, "qcow2: " + wrong_);
  }
  std::uint64_t cluster() const { return std::uint64_t{1} << cluster_bits_; }

  // What is behind the end reads as zeroes.
  template <class T>
  T number(std::uint64_t at) {
    constexpr std::uint64_t page = SparseContent::page_size;
    if (align_down(at, page) != page_at_) {
      page_at_ = align_down(at, page);
      page_.resize(page);
      file_.read(page_at_, page_);
    }
    return load_be<T>(page_.data() + at % page);
  }
  void complain(const std::string& what) {
    if (wrong_.empty()) wrong_ = what;
  }

  void use(std::uint64_t offset, std::uint64_t length) {
    const Range clusters = Range{offset, length}.widened(cluster());
    for (std::uint64_t at = clusters.offset; at < clusters.end(); at += cluster()) ++used_[at];
  }

  void count_block(std::uint64_t index, std::uint64_t block) {
    if (block % cluster() != 0) return complain("a refcount block lies at " + std::to_string(block));
    use(block, cluster());
    const std::uint64_t counts = cluster() / 2;
    for (std::uint64_t i = 0; i < counts; ++i)
      if (const auto count = number<std::uint16_t>(block + i * 2)) counted_[(index * counts + i) * cluster()] = count;
  }

  void look_at_l2(std::uint64_t entry) {
    const std::uint64_t l2 = entry & offset_mask;
    if (l2 % cluster() != 0 || l2 >= file_.size()) return complain("an L2 table lies at " + std::to_string(l2));
    use(l2, cluster());
    if (entry & copied) singly_[l2] = true;
    for (std::uint64_t at = l2; at < l2 + cluster(); at += 8)
      if (const auto of_data = number<std::uint64_t>(at)) look_at_data(of_data);
  }

  void look_at_data(std::uint64_t entry) {
    if (entry & compressed) {
      const unsigned bits = 62 - (cluster_bits_ - 8);
      const std::uint64_t offset = entry & ((std::uint64_t{1} << bits) - 1);
      const std::uint64_t sectors = (entry & (compressed - 1)) >> bits;
      return use(offset, (sectors + 1) * 512 - offset % 512);
    }
    const std::uint64_t data = entry & offset_mask;
    if (data % cluster() != 0) return complain("data lies at " + std::to_string(data));
    if (data == 0) return;
    use(data, cluster());
    if (entry & copied) singly_[data] = true;
  }

  void look_at_bitmaps() {
    std::uint64_t at = number<std::uint32_t>(100);
    while (const auto type = number<std::uint32_t>(at)) {
      if (at > cluster()) return complain("the header's extensions have no end");
      if (type == 0x23852875) return look_at_directory(at + 8);
      at += 8 + align_up(number<std::uint32_t>(at + 4), 8);
    }
    complain("there are no bitmaps, and the header says so");
  }

  void look_at_directory(std::uint64_t extension) {
    const std::uint64_t bytes = number<std::uint64_t>(extension + 8), directory = number<std::uint64_t>(extension + 16);
    use(directory, bytes);
    std::uint64_t at = directory;
    for (auto left = number<std::uint32_t>(extension); left > 0; --left) {
      if (at + 24 > directory + bytes) return complain("the bitmap directory is too short");
      at += look_at_bitmap(at);
    }
  }

  std::uint64_t look_at_bitmap(std::uint64_t at) {
    StoredBitmap bitmap;
    const std::uint64_t table = number<std::uint64_t>(at), entries = number<std::uint32_t>(at + 8);
    const auto flags = number<std::uint32_t>(at + 12);
    bitmap.in_use = flags & 1;
    bitmap.enabled = flags & 2;
    bitmap.granularity = std::uint64_t{1} << number<std::uint8_t>(at + 17);
    const std::uint64_t name = number<std::uint16_t>(at + 18);
    for (std::uint64_t i = 0; i < name; ++i) bitmap.name.push_back(static_cast<char>(number<std::uint8_t>(at + 24 + i)));
    use(table, entries * 8);
    for (std::uint64_t i = 0; i < entries; ++i) {
      const auto entry = number<std::uint64_t>(table + i * 8), data = entry & offset_mask;
      if (data != 0) use(data, cluster());
      for (std::uint64_t byte = 0; byte < cluster(); ++byte) {
        const std::uint8_t bits = data != 0 ? number<std::uint8_t>(data + byte) : entry & 1 ? 0xff : 0;
        for (unsigned bit = 0; bit < 8; ++bit) bitmap.granules.push_back(bits >> bit & 1);
      }
    }
    bitmaps_.push_back(std::move(bitmap));
    return align_up(24 + name, 8);
  }

  void compare(std::uint64_t at, std::uint64_t times) {
    const auto found = counted_.find(at);
    const std::uint64_t count = found == counted_.end() ? 0 : found->second;
    const std::string where = "the cluster at " + std::to_string(at);
    if (count < times) complain(where + " is used " + std::to_string(times) + " times and counted " + std::to_string(count));
    if (singly_.contains(at) && times > 1) complain(where + " is used twice and said to be one's own");
  }

  const SparseContent& file_;
  std::vector<std::byte> page_;
  std::uint64_t page_at_ = ~std::uint64_t{0};
  std::uint32_t cluster_bits_ = 16;
  std::map<std::uint64_t, std::uint64_t> used_, counted_;
  std::map<std::uint64_t, bool> singly_;
  std::vector<StoredBitmap> bitmaps_;
  std::string wrong_;
};

}  // namespace

Result<> check_qcow2(const SparseContent& file) { return Image(file).check(); }
Result<std::vector<StoredBitmap>> bitmaps_in_qcow2(const SparseContent& file) { return Image(file).bitmaps(); }
std::uint64_t autoclear_of_qcow2(const SparseContent& file) { return Image(file).autoclear(); }

}  // namespace tidemark::sim
