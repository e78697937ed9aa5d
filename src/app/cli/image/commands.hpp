// The verbs of `tidemark image`: what each was asked to do, and the coroutine that does it.  options.cpp fills these from
// the command line.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "app/cli/context.hpp"
#include "app/cli/image/names.hpp"

namespace tidemark {
struct Qcow2Snapshot;
}

namespace tidemark::cli {

// Exit codes that are a verb's own, as qemu-img has them.
namespace image_exit {
inline constexpr Exit corrupt = static_cast<Exit>(2), leaks = static_cast<Exit>(3), cannot_check = static_cast<Exit>(63);
inline constexpr Exit different = static_cast<Exit>(1), cannot_compare = static_cast<Exit>(2);
}

struct ImageInfoOptions {
  ImageName image;
  bool backing_chain = false, force_share = false;
};
Task<Exit> image_info(const Context& context, ImageInfoOptions options);

struct ImageCreateOptions {
  std::string file, format = "raw";
  std::optional<std::uint64_t> size;
  std::string backing, backing_format;
  std::string format_options;            // -o: KEY=VALUE,...
  bool backing_unchecked = false;
};
Task<Exit> image_create(const Context& context, ImageCreateOptions options);

struct ImageCheckOptions {
  ImageName image;
  std::string repair;                    // "", leaks, all
  bool force_share = false;
};
Task<Exit> image_check(const Context& context, ImageCheckOptions options);

struct ImageMapOptions {
  ImageName image;
  std::uint64_t start = 0;
  std::optional<std::uint64_t> length;
  bool force_share = false;
};
Task<Exit> image_map(const Context& context, ImageMapOptions options);

struct ImageCompareOptions {
  ImageName first, second;
  bool strict = false, force_share = false;
};
Task<Exit> image_compare(const Context& context, ImageCompareOptions options);

struct ImageConvertOptions {
  std::vector<std::string> sources;      // one after the other, as one disk
  std::string source_format, snapshot;   // of the one source
  std::string target, target_format = "raw", format_options;
  std::string backing, backing_format;   // the target's; what the source has from there is not copied
  bool bitmaps = false, skip_broken_bitmaps = false;
  bool compress = false, target_exists = false, target_is_zero = false, force_share = false, direct = false;
  std::uint64_t sparse = 4096;           // bytes of zeroes that become a hole; 0: none do
  std::uint64_t speed = 0;               // bytes a second; 0: as fast as it goes
  std::uint64_t workers = 0;             // requests in flight; 0: a good number
};
struct ImageConverted {
  std::uint64_t size = 0;                // of the disk
  std::uint64_t data_bytes = 0, zero_bytes = 0, backing_bytes = 0;
};
Task<ImageConverted> convert(const Context& context, ImageConvertOptions options);
Task<Exit> image_convert(const Context& context, ImageConvertOptions options);

struct ImageMeasureOptions {
  ImageName image;                       // empty: of an empty disk of `size`
  std::optional<std::uint64_t> size;
  std::string target_format = "raw", format_options;
  bool force_share = false;
};
Task<Exit> image_measure(const Context& context, ImageMeasureOptions options);

struct ImageResizeOptions {
  ImageName image;
  std::string size;                      // SIZE, +SIZE, -SIZE
  bool shrink = false;
  std::string preallocation = "off";     // of what it grows by: off, metadata, falloc, full
};
Task<Exit> image_resize(const Context& context, ImageResizeOptions options);

struct ImageRebaseOptions {
  ImageName image;
  std::string backing, backing_format;   // empty: none any more
  bool unsafe = false, force_share = false;
};
Task<std::uint64_t> rebase(const Context& context, ImageRebaseOptions options);     // bytes that were written
Task<Exit> image_rebase(const Context& context, ImageRebaseOptions options);

struct ImageCommitOptions {
  ImageName image;
  std::string base;                      // empty: the image right below
  bool keep = false;                     // the image is not emptied afterwards
  std::string above;                     // a qcow2 image that stands on the image, and on the base then; empty: none
  // The image's header names this, the base, before it is emptied, which it is however many layers went into that.
  std::optional<ImageName> stands_on = {};
};
struct ImageCommitted {
  std::string base;
  std::uint64_t data_bytes = 0, zero_bytes = 0;
  bool emptied = false;
};
Task<ImageCommitted> commit(const Context& context, ImageCommitOptions options);
Task<Exit> image_commit(const Context& context, ImageCommitOptions options);

struct ImageAmendOptions {
  ImageName image;
  std::string format_options;            // -o: KEY=VALUE,...
};
Task<Exit> image_amend(const Context& context, ImageAmendOptions options);

struct ImageSnapshotOptions {
  enum class Action : std::uint8_t { list, create, apply, remove } action = Action::list;
  ImageName image;
  std::string name;                      // of all but list: an id or a name
  bool force_share = false;              // of list
};
// Not of list: the snapshot that was made, applied or deleted.
Task<Qcow2Snapshot> change_snapshots(const Context& context, ImageSnapshotOptions options);
Task<Exit> image_snapshot(const Context& context, ImageSnapshotOptions options);

struct ImageBitmapOptions {
  enum class Action : std::uint8_t { add, remove, clear, enable, disable, merge, rebuild };
  struct Step {
    Action action;
    std::string source;                  // of merge
  };
  ImageName image;
  std::string name;
  std::vector<Step> steps;               // in the order given
  std::uint64_t granularity = 0;         // of add; 0: the cluster size, at least 4 KiB
  ImageName source_image;                // of merge; empty: the same
};
Task<Exit> image_bitmap(const Context& context, ImageBitmapOptions options);

}  // namespace tidemark::cli
