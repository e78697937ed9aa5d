// The words of the block layer: permissions, request flags, extents, limits, what an image says of itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/units.hpp"

namespace tidemark {

class BlockNode;

// Every size of a node is a multiple of this; a file's odd tail reads as zeroes up to it.
inline constexpr std::uint32_t sector_size = 512;

// QEMU's permissions on a node (qapi: BlockPermission), and one more.  A user *uses* some and *shares* some with
// the node's other users; a conflict is an error that names both.
struct Permissions {
  using Set = std::uint8_t;
  static constexpr Set none = 0;
  static constexpr Set consistent_read = 1;   // what is read is the content of some point in time
  static constexpr Set write = 2;
  static constexpr Set write_unchanged = 4;   // writes that leave the visible content as it is
  static constexpr Set resize = 8;
  static constexpr Set write_below = 16;      // not QEMU's: writes that an image which stands on the node would show
  static constexpr Set all = 31;

  Set uses = none;
  Set shares = all;
  bool writes() const noexcept { return (uses & (write | write_unchanged)) != 0; }
  friend bool operator==(Permissions, Permissions) = default;
};

// "consistent read, write" - QEMU's names, for messages.
std::string permission_names(Permissions::Set set);

// What a child is to its parent (qapi: the names of child nodes).
enum class Role : std::uint8_t {
  root,        // not a node's child: used by an export, a job, a backend
  file,        // a format's storage
  data_file,
  backing,
  filtered,    // a filter's "file": same content, same size
  target,      // a copy-before-write filter's target
};
std::string_view to_string(Role role) noexcept;   // "root", "file", "data-file", "backing", "file", "target"

enum class WriteFlags : std::uint8_t {
  none = 0,
  fua = 1,            // durable when it completes
  may_unmap = 2,      // write_zeroes: deallocating is welcome
  no_fallback = 4,    // write_zeroes: fail with Errc::unsupported rather than write zeroes slowly
  unchanged = 8,      // leaves the visible content as it is: marks no bitmap (write-unchanged permission)
};
constexpr WriteFlags operator|(WriteFlags a, WriteFlags b) noexcept {
  return static_cast<WriteFlags>(static_cast<std::uint8_t>(a) | static_cast<std::uint8_t>(b));
}
constexpr WriteFlags without(WriteFlags a, WriteFlags b) noexcept {
  return static_cast<WriteFlags>(static_cast<std::uint8_t>(a) & ~static_cast<std::uint8_t>(b));
}
constexpr bool has(WriteFlags set, WriteFlags flag) noexcept {
  return (static_cast<std::uint8_t>(set) & static_cast<std::uint8_t>(flag)) != 0;
}

// What a disk shows behind its old end when it becomes longer.
enum class Growth : std::uint8_t {
  zeroes,
  as_it_is,           // of a device that has grown: what is there, which is news to the disk
};

// Where the bytes of a range of a node live, as its driver sees it.
enum class Mapping : std::uint8_t {
  data,             // stored in this layer; host_offset in `host` when it has one
  zero,             // reads as zeroes, decided by this layer, occupies nothing
  zero_allocated,   // reads as zeroes, but storage is reserved at host_offset
  compressed,       // stored in this layer in a form that has no host_offset of its own
  below,            // not in this layer: the backing child's, or zeroes where there is none
};

struct Extent {
  Range range;
  Mapping mapping = Mapping::data;
  std::optional<std::uint64_t> host_offset;   // of range.offset, in the storage child
};

// What a driver wants of requests.  The node splits and pads; drivers see nothing else.
struct BlockLimits {
  std::uint32_t request_align = 1;        // offset and length of reads and writes; a power of two
  std::uint32_t memory_align = 1;         // addresses and lengths of buffers; a power of two
  std::uint32_t write_zeroes_align = 1;   // a power of two; unaligned ends are written as data
  std::uint32_t discard_align = 1;        // a power of two; unaligned ends are left alone
  std::uint32_t max_transfer = 0;         // bytes of one read or write, 0 for no limit
  std::uint64_t max_zeroes = 0;           // bytes of one write_zeroes or discard, 0 for no limit
  std::uint32_t opt_transfer = 0;         // bytes that are best, 0 when it does not matter
};

// What `query-named-block-nodes` and `tidemark image info` show (qapi: ImageInfo).
struct ImageInfo {
  std::string filename;
  std::string format;
  std::uint64_t virtual_size = 0;
  std::optional<std::uint64_t> actual_size;
  std::optional<std::uint64_t> cluster_size;
  std::optional<bool> dirty = false;      // none: the driver knows of no such thing
  bool compressed = false;
  bool encrypted = false;
  std::string backing_filename;           // as the image says it; empty for none
  std::string backing_format;
  std::string full_backing_filename;      // resolved against the image's own name
  struct Qcow2 {                          // format-specific
    std::string compat;                   // "0.10", "1.1"
    bool lazy_refcounts = false, corrupt = false, extended_l2 = false;
    std::uint32_t refcount_bits = 16;
    std::string compression_type;         // "zlib", "zstd"
    std::string data_file;
    bool data_file_raw = false;
  };
  std::optional<Qcow2> qcow2;
};

}  // namespace tidemark
