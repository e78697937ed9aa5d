#include "control/graph/file_names.hpp"

#include "base/paths.hpp"
#include "block/status.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

struct Telling {
  std::string_view driver, option;
};

constexpr Telling telling[] = {{"file", "filename"},   {"host_device", "filename"}, {"raw", "offset"}, {"raw", "size"},
                               {"null-co", "size"},    {"null-co", "read-zeroes"},  {"nbd", "server"}, {"nbd", "export"},
                               {"null-aio", "size"},   {"null-aio", "read-zeroes"}, {"memory", "size"},
                               {"throttle", "throttle-group"},
                               {"blkdebug", "config"}, {"blkdebug", "align"}, {"blkdebug", "max-transfer"},
                               {"blkdebug", "opt-write-zero"}, {"blkdebug", "max-write-zero"}, {"blkdebug", "opt-discard"},
                               {"blkdebug", "max-discard"}, {"blkdebug", "inject-error"}, {"blkdebug", "set-state"}};

bool is_format(std::string_view driver) { return driver == "raw" || driver == "qcow2"; }

// Lists, and what is in them, as one option each.
void add_flat(Json& told, const std::string& name, const Json& value) {
  if (!value.is_array()) {
    told.set(name, value);
    return;
  }
  std::size_t i = 0;
  for (const Json& item : value.as_array()) {
    const std::string prefix = name + "." + std::to_string(i++);
    for (const auto& [member, inner] : item.as_object()) told.set(prefix + "." + member, inner);
  }
}

// As a name that is not known to be a file's leads to it.
std::string whole_name(const std::string& name) { return has_protocol(name) ? name : absolute_path(name); }

// Its driver, and the options that matter to what it shows.
Json telling_options(const BlockNode& node) {
  const std::string driver(node.driver().name());
  Json told = Json::object({{"driver", driver}});
  for (const Telling& one : telling)
    if (one.driver == driver)
      if (const Json* value = node.options().given.find(one.option)) add_flat(told, std::string(one.option), *value);
  return told;
}

// It is there for as long as a job, and shows what is below it: who names the node means that.
bool is_of_job(const BlockNode& node) { return node.driver().is_filter() && node.options().given.is_null(); }

bool has_own_options(const BlockNode& node) { return telling_options(node).as_object().size() > 1; }

struct Names {
  std::string plain;                     // empty: there is none
  Json options;                          // all, for when it is part of another name
  std::string text() const { return plain.empty() ? "json:" + to_text(options) : plain; }
};

// Both are known at once, so that a node is named once, however many stand on it.
struct Named {
  Names told, kept;                      // file_name_of, and name_to_keep_of
};

// Whether an image, opened by its name, would have something else below it.
struct Overridden {
  bool told = false, kept = false;
};

// QEMU looks at the text alone, and writes what it tells; what is kept counts by where it leads.
Task<Overridden> what_differs(BlockNode& image, BlockNode& backing, const Named& below) {
  const ImageInfo info = co_await image.driver().info();
  const std::string& format = info.backing_format;
  const bool other_format = !format.empty() && (format == "qcow2") != (skip_filters(backing).driver().name() == "qcow2");
  const std::string told = below.told.text(), kept = below.kept.text();
  Overridden found;
  found.told = told != info.backing_filename && name_from(info.filename, kept) != info.backing_filename;
  found.kept = other_format || whole_name(kept) != whole_name(info.full_backing_filename);
  co_return found;
}

Task<Named> named(BlockNode& node);

// `below` is what is there, where that is to be asked.
Task<Overridden> overridden_in(BlockNode& node, Named& below) {
  Overridden found;
  BlockNode* backing = node.backing();
  if (node.driver().name() != "qcow2" || (backing && node.options().backing_found)) co_return found;
  if (!backing) {
    found.told = found.kept = !static_cast<Qcow2Driver&>(node.driver()).backing_file().empty();
    co_return found;
  }
  below = co_await named(*backing);
  co_return co_await what_differs(node, *backing, below);
}

Task<Named> named_storage(BlockNode& node) {
  Names told;
  told.options = telling_options(node);
  if (const Json* given = node.options().given.find("filename")) told.plain = given->as_string();
  else told.plain = (co_await node.driver().info()).filename;
  if (node.options().given.is_null()) told.options.set("filename", told.plain);
  Names kept = told;
  if (node.driver().name() == "file" || node.driver().name() == "host_device") {
    kept.options.set("filename", absolute_path(told.plain));
    kept.plain = file_not_protocol(told.plain);
  }
  if (node.driver().name().starts_with("null-") && has_own_options(node)) told.plain = kept.plain = "";
  Named both;
  both.told = std::move(told);
  both.kept = std::move(kept);
  co_return std::move(both);
}

// `whole`: the image is told by the name of this child, as far as that has one.
void add_child(Names& image, const Edge& edge, Names below, bool whole) {
  if (whole) image.plain = below.plain;
  image.options.set(edge.name(), std::move(below.options));
}

Task<Named> named_image(BlockNode& node) {
  const std::string_view driver = node.driver().name();
  Named both, backing;
  both.told.options = both.kept.options = telling_options(node);
  const Overridden overridden = co_await overridden_in(node, backing);
  for (const Edge* edge : node.driver().edges()) {
    if (edge->role() == Role::backing) {
      if (overridden.told) add_child(both.told, *edge, backing.told, false);
      if (overridden.kept) add_child(both.kept, *edge, backing.kept, false);
      continue;
    }
    BlockNode& child = edge->node();
    Named below = co_await named(child);
    const bool is_file = is_format(driver) && edge->role() == Role::file && !has_own_options(node);
    const bool in_storage = child.driver().edges().empty(), in_filtered = skip_filters(child).driver().edges().empty();
    add_child(both.told, *edge, std::move(below.told), is_file && in_storage && !overridden.told);
    add_child(both.kept, *edge, std::move(below.kept), is_file && in_filtered && !overridden.kept);
  }
  if (overridden.told && !node.backing()) both.told.options.set("backing", nullptr);
  if (overridden.kept && !node.backing()) both.kept.options.set("backing", nullptr);
  co_return std::move(both);
}

// Filters are as they are set up: an image has what they show.
Task<Named> named_above(BlockNode& node, BlockNode& shown) {
  Named both;
  if (!is_of_job(node)) both.told.options = telling_options(node);
  const std::string_view driver = node.driver().name();
  const bool told_as_below = is_of_job(node) || driver == "copy-before-write" || driver == "snapshot-access";
  for (const Edge* edge : node.driver().edges()) {
    BlockNode& child = edge->node();
    if (is_of_job(node) && &child != &shown) continue;
    Named below = co_await named(child);
    if (&child == &shown && told_as_below) both.told.plain = below.told.text();
    if (&child == &shown) both.kept = std::move(below.kept);
    if (is_of_job(node)) both.told.options = std::move(below.told.options);
    else add_child(both.told, *edge, std::move(below.told), false);
  }
  co_return std::move(both);
}

Task<Named> named(BlockNode& node) {
  const std::vector<Edge*> edges = node.driver().edges();
  if (edges.empty()) co_return co_await named_storage(node);
  BlockNode* shown = node.filtered();
  if (node.driver().name() == "snapshot-access") shown = &edges.front()->node();
  if (!shown) co_return co_await named_image(node);
  co_return co_await named_above(node, *shown);
}

}  // namespace

Task<std::string> file_name_of(BlockNode& node) {
  const Named both = co_await named(node);
  co_return both.told.text();
}

Task<std::string> name_to_keep_of(BlockNode& node) {
  const Named both = co_await named(node);
  co_return both.kept.text();
}

}  // namespace tidemark
