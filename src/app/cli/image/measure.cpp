#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/format_options.hpp"
#include "app/cli/image/session.hpp"
#include "block/status.hpp"
#include "format/qcow2/create_options.hpp"
#include "format/qcow2/layout/measure.hpp"

namespace tidemark::cli {
namespace {

struct Content {
  std::uint64_t size = 0, data = 0;        // data in whole clusters
  std::optional<std::uint64_t> bitmaps;    // what its bitmaps would take, where they could be taken along
};

// In clusters, were all of it stored: each with its table, and the directory.
Task<std::uint64_t> space_of_bitmaps(Qcow2Driver& image, std::uint64_t cluster_size) {
  std::vector<qcow2::BitmapEntry> stored;
  std::uint64_t space = 0;
  const auto entries = co_await image.bitmap_entries();
  for (const qcow2::BitmapEntry& entry : entries) {
    if (!entry.usable()) continue;
    const std::uint64_t clusters = div_up(qcow2::bitmap_bytes(image.size(), entry.granularity_bits), cluster_size);
    space += clusters * cluster_size + align_up(clusters * qcow2::entry_bytes, cluster_size);
    stored.push_back(entry);
  }
  co_return space + align_up(qcow2::serialise_bitmap_directory(stored).size(), cluster_size);
}

constexpr unsigned extents_at_once = 4096;               // what lies in memory is found without a pause, in which Ctrl-C is heard

Task<std::uint64_t> data_in(const Context& context, Edge& image, std::uint64_t cluster_size) {
  std::uint64_t data = 0;
  unsigned extents = 0;
  for (Range left{0, image.size()}; !left.empty();) {
    if (++extents % extents_at_once == 0) co_await context.reactor.yield();
    co_await unwrap(context.check_interrupted());
    const BlockStatus status = co_await block_status_above(image.node(), nullptr, left);
    Range found = status.range;
    if (status.data && !status.zero) {
      found = found.widened(cluster_size);
      data += found.length;
    }
    const std::uint64_t end = std::min(std::max(found.end(), status.range.end()), left.end());
    left = {end, left.end() - end};
  }
  co_return data;
}

Task<Content> content_of(const Context& context, const ImageMeasureOptions& options, const Qcow2CreateOptions& format,
                         std::uint64_t cluster_size) {
  std::function<Task<Content>(Session&)> body = [&](Session& session) -> Task<Content> {
    ImageAccess access;
    access.force_share = options.force_share;
    Edge* image = co_await session.open(options.image, access);
    Content content{image->size(), 0, {}};
    if (format.backing_file.empty()) content.data = co_await data_in(context, *image, cluster_size);
    else content.data = align_up(image->size(), cluster_size);     // what will be read from there is not known yet
    const ImageInfo info = co_await image->node().driver().info();
    if (options.target_format == "qcow2" && format.version >= 3 && info.qcow2 && info.qcow2->compat != "0.10")
      content.bitmaps = co_await space_of_bitmaps(static_cast<Qcow2Driver&>(image->node().driver()), cluster_size);
    co_return content;
  };
  co_return co_await in_session<Content>(context.reactor, body, context.interrupted);
}

// What decides how large an image becomes, as QEMU does: the rest does not matter before it is made.
Result<> check_tables(const Qcow2CreateOptions& format) {
  Qcow2CreateOptions tables;
  tables.cluster_size = format.cluster_size;
  tables.refcount_bits = format.refcount_bits;
  tables.extended_l2 = format.extended_l2;
  if (format.refcount_bits != 16) tables.version = format.version;
  return qcow2::check(tables);
}

Result<qcow2::Measured> measure_qcow2(const Content& content, const Qcow2CreateOptions& format) {
  const std::uint64_t l2_entry = format.extended_l2 ? 2 * qcow2::entry_bytes : qcow2::entry_bytes;
  if (div_up(content.size, format.cluster_size * (format.cluster_size / l2_entry)) * qcow2::entry_bytes > qcow2::l1_bytes_max)
    return Error(Errc::no_space, "The image size is too large (try using a larger cluster size)");
  qcow2::Measured measured = qcow2::measure(content.size, content.data, format.cluster_size, format.refcount_bits, l2_entry);
  const bool reserved = format.preallocation == Qcow2Preallocation::falloc || format.preallocation == Qcow2Preallocation::full;
  if (reserved) measured.required = measured.fully_allocated;
  return measured;
}

void print(const Context& context, const qcow2::Measured& measured, std::optional<std::uint64_t> bitmaps) {
  if (context.json) {
    Json json = Json::object({{"required", measured.required}, {"fully-allocated", measured.fully_allocated}});
    if (bitmaps) json.set("bitmaps", *bitmaps);
    print_json(json);
    return;
  }
  std::string out = fmt::format("required size: {}\nfully allocated size: {}", measured.required, measured.fully_allocated);
  if (bitmaps) out += fmt::format("\nbitmaps size: {}", *bitmaps);
  print_lines(out);
}

}  // namespace

Task<Exit> image_measure(const Context& context, ImageMeasureOptions options) {
  const FormatOptions format = co_await unwrap(parse_format_options(options.target_format, options.format_options));
  if (options.image.name.empty() != options.size.has_value())
    co_await Error(Errc::invalid_argument, "give an image or --size, one of the two");
  const bool is_raw = options.target_format == "raw";
  if (!is_raw) co_await unwrap(check_tables(format.qcow2));
  const std::uint64_t cluster_size = is_raw ? sector_size : format.qcow2.cluster_size;
  Content content;
  if (options.size) content.size = align_up(*options.size, sector_size);
  else content = co_await content_of(context, options, format.qcow2, cluster_size);
  qcow2::Measured measured{content.size, content.size};
  if (!is_raw) measured = co_await unwrap(measure_qcow2(content, format.qcow2));
  print(context, measured, content.bitmaps);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
