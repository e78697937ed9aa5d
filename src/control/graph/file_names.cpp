#include "control/graph/file_names.hpp"

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

// Whether the image, opened by its name, would have something else below it.
Task<bool> is_backing_overridden(BlockNode& node) {
  if (node.driver().name() != "qcow2") co_return false;
  const std::string& named = static_cast<Qcow2Driver&>(node.driver()).backing_file();
  BlockNode* backing = node.backing();
  if (!backing) co_return !named.empty();
  if (node.options().backing_found) co_return false;
  const std::string there = co_await file_name_of(*backing);
  co_return there != named;
}

// Empty: there is none.
Task<std::string> plain_name_of(BlockNode& node) {
  const std::string_view driver = node.driver().name();
  if (node.driver().edges().empty()) {
    if (driver.starts_with("null-") && has_own_options(node)) co_return std::string();
    if (const Json* given = node.options().given.find("filename")) co_return given->as_string();
    co_return (co_await node.driver().info()).filename;
  }
  if (is_of_job(node) || driver == "copy-before-write" || driver == "snapshot-access") {
    BlockNode& shown = node.driver().edges().front()->node();
    co_return co_await file_name_of(shown);
  }
  if (!is_format(driver) || has_own_options(node)) co_return std::string();
  const bool overridden = co_await is_backing_overridden(node);
  BlockNode& file = node.child(Role::file)->node();
  if (overridden || !file.driver().edges().empty()) co_return std::string();
  co_return co_await plain_name_of(file);
}

Task<Json> all_options_of(BlockNode& node) {
  if (is_of_job(node)) {
    BlockNode& shown = node.driver().edges().front()->node();
    co_return co_await all_options_of(shown);
  }
  Json options = telling_options(node);
  if (node.options().given.is_null() && node.driver().edges().empty())
    options.set("filename", (co_await node.driver().info()).filename);
  const bool overridden = co_await is_backing_overridden(node);
  for (const Edge* edge : node.driver().edges()) {
    if (edge->role() == Role::backing && !overridden) continue;
    Json child = co_await all_options_of(edge->node());
    options.set(edge->name(), std::move(child));
  }
  if (overridden && !node.backing()) options.set("backing", nullptr);
  co_return std::move(options);
}

}  // namespace

Task<std::string> file_name_of(BlockNode& node) {
  std::string plain = co_await plain_name_of(node);
  if (!plain.empty()) co_return std::move(plain);
  const Json options = co_await all_options_of(node);
  co_return "json:" + to_text(options);
}

}  // namespace tidemark
