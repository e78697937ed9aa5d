#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/session.hpp"
#include "app/cli/text.hpp"
#include "block/status.hpp"

namespace tidemark::cli {
namespace {

// qemu-img's MapEntry.
struct Entry {
  Range range;
  std::uint32_t depth = 0;
  bool present = false, zero = false, data = false, compressed = false;
  std::optional<std::uint64_t> offset;
  BlockNode* layer = nullptr;

  bool goes_on_with(const Entry& next) const {
    const bool placed = offset.has_value() == next.offset.has_value() && (!offset || *offset + range.length == *next.offset);
    return placed && depth == next.depth && present == next.present && zero == next.zero && data == next.data &&
           compressed == next.compressed;
  }
};

Entry decided(BlockNode& layer, std::uint32_t depth, const Extent& extent) {
  Entry entry{extent.range, depth, true, false, false, false, extent.host_offset, &layer};
  entry.compressed = extent.mapping == Mapping::compressed;
  entry.data = extent.mapping == Mapping::data || entry.compressed;
  entry.zero = !entry.data;
  return entry;
}

// Down the chain until a layer has something to say.
Task<Entry> entry_at(BlockNode& top, Range wanted) {
  BlockNode* layer = &skip_filters(top);
  for (std::uint32_t depth = 0;; ++depth) {
    const InFlight in_flight(*layer);
    wanted.length = std::min(wanted.length, layer->driver().size() - wanted.offset);
    const Extent extent = co_await layer->driver().map(wanted);
    if (extent.mapping != Mapping::below) co_return decided(*layer, depth, extent);
    wanted = extent.range;
    BlockNode* below = layer->backing();
    const std::uint64_t stored = below ? below->driver().size() : 0;
    if (wanted.offset >= stored) co_return Entry{wanted, depth, false, true, false, false, {}, layer};
    layer = &skip_filters(*below);
  }
}

// Whose offsets are said: an external data file's, where there is one.
BlockNode& bytes_of(BlockNode& layer) {
  for (Edge* edge : layer.driver().edges())
    if (edge->role() == Role::data_file) return edge->node();
  return layer;
}

Json to_json(const Entry& entry) {
  Json json = Json::object({{"start", entry.range.offset}, {"length", entry.range.length}, {"depth", entry.depth},
                            {"present", entry.present}, {"zero", entry.zero}, {"data", entry.data}});
  if (entry.compressed) json.set("compressed", true);
  if (entry.offset) json.set("offset", *entry.offset);
  return json;
}

// Rows are printed as they are found: a fragmented disk has millions.
class Printer {
 public:
  explicit Printer(bool json) : json_(json) {
    if (!json_) print_line(fmt::format("{:<16}{:<16}{:<16}{}", "Offset", "Length", "Mapped to", "File"));
  }
  Task<> add(Entry entry) {
    if (pending_ && pending_->goes_on_with(entry)) {
      pending_->range.length += entry.range.length;
      co_return;
    }
    co_await put();
    pending_ = entry;
  }
  Task<> end() {
    co_await put();
    if (json_) print_line(any_ ? row_ + "]" : "[]");
  }

 private:
  Task<> put() {
    if (!pending_) co_return;
    const Entry entry = *std::exchange(pending_, std::nullopt);
    if (json_) {
      if (any_) print_line(row_ + ",");
      row_ = (any_ ? " " : "[") + tidemark::to_text(to_json(entry));
      any_ = true;
    } else if (entry.data) {
      const ImageInfo info = co_await bytes_of(*entry.layer).driver().info();
      const std::string place = entry.offset ? fmt::format("{:#x}", *entry.offset) : "compressed";
      print_line(fmt::format("{:<16}{:<16}{:<16}{}", fmt::format("{:#x}", entry.range.offset),
                             fmt::format("{:#x}", entry.range.length), place, info.filename));
    }
  }
  const bool json_;
  bool any_ = false;
  std::string row_;                      // waits for what comes after it
  std::optional<Entry> pending_;
};

Task<> print_map(const Context& context, BlockNode& disk, Range area) {
  Printer printer(context.json);
  while (!area.empty()) {
    co_await unwrap(context.check_interrupted());
    const Entry entry = co_await entry_at(disk, area);
    co_await printer.add(entry);
    area = {entry.range.end(), area.end() - entry.range.end()};
  }
  co_await printer.end();
}

}  // namespace

Task<Exit> image_map(const Context& context, ImageMapOptions options) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.force_share = options.force_share;
    Edge* image = co_await session.open(options.image, access);
    const std::uint64_t size = image->node().driver().size();
    if (options.start > size)
      co_await Error(Errc::out_of_range, fmt::format("'{}' ends at {}, before {}", options.image.name, size, options.start));
    const Range area{options.start, std::min(options.length.value_or(size), size - options.start)};
    co_await print_map(context, image->node(), area);
  };
  co_await in_session<void>(context.reactor, body, context.interrupted);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
