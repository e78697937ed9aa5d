// ImageIdentity: by what a store knows its image again.
//
// A file: inode, time of birth, size and change time; and its file system's number, which another mount may change.  A device: the
// surest of its names, its size, the checksums of some of its blocks, its canaries, and how much the kernel has written to it, which
// says something as long as the host is up and the device there; of a loop device the change time of its file, too, and of a partition
// where it begins.  After a clean close all of it must be as it was; after a crash only what the guest's own writes cannot have changed.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "block/node_bitmap.hpp"
#include "io/file.hpp"
#include "tracking/codec.hpp"

namespace tidemark::tracking {

struct Canary {
  std::uint64_t offset = 0;
  std::uint64_t sum = 0;
  friend bool operator==(const Canary&, const Canary&) = default;
};

// What went to a device through this kernel (Linux: Documentation/block/stat.rst, sectors written and discarded).
struct DeviceWrites {
  static constexpr std::uint64_t not_counted = ~std::uint64_t{0};
  std::string since;                      // the boot, and the device's number in it; empty: not known
  std::uint64_t sectors = 0;
  friend bool operator==(const DeviceWrites&, const DeviceWrites&) = default;
};

struct ImageIdentity {
  static constexpr std::uint64_t canary_bytes = 4096;
  static constexpr std::size_t canaries_max = 32;      // that are spread evenly, and as many of places that were written

  bool is_device = false;
  // The device number is that of the file system, and that and the change time of a device are those of the file which it shows; the
  // inode of a device is the sector where it begins, being a partition.  0: there is none.
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t change_time_ns = 0;
  std::int64_t birth_time_ns = 0;         // 0: not known
  std::string stable_id;                  // of a device; empty: not known
  std::vector<std::string> names;         // of a device, all that it has at this moment; not stored
  std::vector<Canary> canaries;           // of a device
  DeviceWrites writes;
  friend bool operator==(const ImageIdentity&, const ImageIdentity&) = default;

  // All but `writes`, which have a place of their own.
  void encode(Encoder& to) const;
  static ImageIdentity decode(Decoder& from);
};

// Of an image that nobody writes, and a device's names, the surest first.  Canaries are spread evenly over a device, or where `places`
// are; they are read after all else, so that what somebody writes meanwhile is not taken for what was there.
Task<ImageIdentity> identify(Reactor& reactor, std::string image, std::vector<std::string> names = {},
                             std::vector<std::uint64_t> places = {});

// The same, of what a power cut cannot take back: what closing the image did to its size is durable first.
Task<ImageIdentity> identify_durably(Reactor& reactor, std::string image, std::vector<std::string> names = {},
                                     std::vector<std::uint64_t> places = {});

// Evenly over a device of that size.
std::vector<std::uint64_t> places_over(std::uint64_t size);
// Where a disk was written, as far as its bitmaps tell: who goes on with it elsewhere writes there, too.
std::vector<std::uint64_t> places_written(const NodeBitmaps& bitmaps);
// The same device once more, of that size, to be compared with what it was: what is at the places of those canaries now, and after
// that what else tells of writes.
Task<ImageIdentity> identify_by(Reactor& reactor, std::string device, ImageIdentity now, std::vector<Canary> before);

// Whether the device that is `now` has a name that one was known by: better ones may have come since.
bool has_name(const ImageIdentity& now, const std::string& stable_id);

// Why `now` is not the image that was known as `before`, or nothing.  `clean`: nobody was to write since.  `mounted`: the file
// system has been there since, and has its number.
std::optional<std::string> difference(const ImageIdentity& before, const ImageIdentity& now, bool clean, bool mounted = false);

// The host's boot, or nothing where it cannot be told.
Task<std::string> boot_id(Reactor& reactor);

}  // namespace tidemark::tracking
