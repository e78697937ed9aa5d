// Changes qcow2 images where it matters: entries of tables that the header leads to get values that some other
// table has, that lie just beside the right ones, or that mean something.
//
// An input is a byte (0 or 255: an image follows) and the image; other inputs are changed as bytes.
#include <algorithm>
#include <array>
#include <vector>

#include "base/bytes.hpp"
#include "base/random.hpp"
#include "base/units.hpp"
#include "tests/fuzz/fuzz.hpp"
#include "tests/fuzz/qcow2_mutator.hpp"

using namespace tidemark;

namespace {

// docs/interop/qcow2.rst, "Header": place and width of each field.
struct Field {
  std::size_t at, width;
};
constexpr Field fields[] = {{4, 4},  {8, 8},  {16, 4}, {20, 4}, {24, 8}, {32, 4}, {36, 4},  {40, 8}, {48, 8},
                            {56, 4}, {60, 4}, {64, 8}, {72, 8}, {80, 8}, {88, 8}, {96, 4}, {100, 4}, {104, 1}};
constexpr std::uint64_t offset_mask = 0x00fffffffffffe00;
constexpr std::uint32_t bitmaps_extension = 0x23852875;

class Image {
 public:
  Image(MutableBytes bytes, Prng& random) : bytes_(bytes), random_(random) {}

  bool change() {
    if (bytes_.size() < 104) return false;
    switch (random_.below(10)) {
      case 0: return header();
      case 1: return entry(field(40), std::min<std::uint64_t>(field32(36), 64));                    // L1
      case 2:
      case 3: return below(field(40), std::min<std::uint64_t>(field32(36), 64), cluster() / 8);      // L2
      case 4: return entry(field(48), std::min<std::uint64_t>(field32(56), 8) * cluster() / 8);      // refcount table
      case 5: return below(field(48), 4, cluster() / 8);                                             // refcount block
      case 6:
      case 7: return snapshot();
      default: return extension();
    }
  }

 private:
  std::uint64_t field(std::size_t at) const { return load_be<std::uint64_t>(bytes_.data() + at); }
  std::uint32_t field32(std::size_t at) const { return load_be<std::uint32_t>(bytes_.data() + at); }
  std::uint64_t cluster() const { return std::uint64_t{1} << std::min<std::uint32_t>(field32(20), 21); }

  // Of something else, of a place beside, or of a meaning.
  std::uint64_t value(std::uint64_t old) {
    const std::uint64_t places[] = {field(40), field(48), field(64), old & offset_mask, bytes_.size(), bytes_.size() - 512,
                                    cluster(), 0};
    const std::uint64_t flags[] = {0, 1, std::uint64_t{1} << 63, std::uint64_t{1} << 62, std::uint64_t{3} << 62};
    switch (random_.below(7)) {
      case 0: return old ^ std::uint64_t{1} << random_.below(64);
      case 1: return old + random_.below(3) - 1;
      case 2: return 0;
      case 3: return ~std::uint64_t{0} >> random_.below(64);
      case 4: return random_();
      default: return (places[random_.below(std::size(places))] + 512 * random_.below(3)) | flags[random_.below(std::size(flags))];
    }
  }
  bool set(std::uint64_t at) {
    if (!fits(at, 8, bytes_.size())) return false;
    store_be(bytes_.data() + at, value(field(at)));
    return true;
  }
  bool header() {
    const Field f = fields[random_.below(std::size(fields))];
    if (f.width == 8) return set(f.at);
    if (f.width == 4) store_be(bytes_.data() + f.at, static_cast<std::uint32_t>(value(field32(f.at))));
    else bytes_[f.at] = static_cast<std::byte>(random_());
    return true;
  }
  bool entry(std::uint64_t table, std::uint64_t entries) {
    return entries != 0 && table < bytes_.size() && set(table + 8 * random_.below(entries));
  }
  // Of a table that an entry of this one leads to.
  bool below(std::uint64_t table, std::uint64_t entries, std::uint64_t entries_below) {
    for (std::uint64_t i = 0; i < entries && fits(table + 8 * i, 8, bytes_.size()); ++i) {
      const std::uint64_t next = field(table + 8 * i) & offset_mask;
      if (next != 0 && (i + 1 == entries || random_.chance(1, 2))) return entry(next, entries_below);
    }
    return false;
  }
  // An entry of the table of snapshots, their L1 tables, their L2 tables: fields are not all of eight bytes.
  bool snapshot() {
    std::uint64_t at = field(64);
    for (std::uint64_t left = random_.below(4); left != 0 && fits(at, 40, bytes_.size()); --left)
      at += align_up(40 + field32(at + 36) + (field32(at + 12) >> 16) + (field32(at + 12) & 0xffff), 8);
    if (field(64) == 0 || !fits(at, 40, bytes_.size())) return false;
    const std::uint64_t l1 = field(at), entries = std::min<std::uint64_t>(field32(at + 8), 64);
    switch (random_.below(4)) {
      case 0: return set(at + 4 * random_.below(14));
      case 1: return entry(l1, entries);
      case 2: return below(l1, entries, cluster() / 8);
      default: bytes_[at + random_.below(40)] = static_cast<std::byte>(random_()); return true;
    }
  }
  // The directory's entries, the tables that they lead to.
  bool bitmap(std::uint64_t directory) {
    std::uint64_t at = directory;
    for (std::uint64_t left = random_.below(3); left != 0 && fits(at, 24, bytes_.size()); --left)
      at += align_up(24 + std::uint64_t{field32(at + 20)} + (field32(at + 16) & 0xffff), 8);
    if (!fits(at, 24, bytes_.size())) return false;
    switch (random_.below(3)) {
      case 0: return set(at + 4 * random_.below(6));
      case 1: bytes_[at + random_.below(24)] = static_cast<std::byte>(random_()); return true;
      default: return entry(field(at), std::min<std::uint64_t>(field32(at + 8), 64));
    }
  }
  bool extension() {
    std::uint64_t at = std::min<std::uint64_t>(field32(100), 4096);
    for (int i = 0; i < 8 && fits(at, 24, bytes_.size()); ++i) {
      if (field32(at) == bitmaps_extension && random_.chance(3, 4)) return bitmap(field(at + 24));
      if (random_.chance(1, 3)) return set(at + 4 * random_.below(5));
      at += 8 + align_up(std::uint64_t{field32(at + 4)}, 8);
    }
    return false;
  }

  MutableBytes bytes_;
  Prng& random_;
};

}  // namespace

bool tidemark::change_image(MutableBytes image, Prng& random) { return Image(image, random).change(); }

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max, unsigned seed) {
  Prng random(seed);
  if (size < 2 || (data[0] != 0 && data[0] != 0xff) || random.chance(1, 5)) return LLVMFuzzerMutate(data, size, max);
  Image image(std::as_writable_bytes(std::span(data + 1, size - 1)), random);
  return image.change() ? size : LLVMFuzzerMutate(data, size, max);
}
