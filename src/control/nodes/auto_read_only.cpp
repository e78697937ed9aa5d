#include "control/nodes/auto_read_only.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "control/nodes/read_only.hpp"

namespace tidemark {
namespace {

constexpr Duration rest_max = std::chrono::seconds(1);       // nobody waits for that who writes

bool says(const Json& given, std::string_view option) {
  const Json* said = given.find(option);
  return said && said->is_bool() && said->as_bool();
}

bool stores(const Edge& edge) {
  return edge.role() == Role::file || edge.role() == Role::data_file || edge.role() == Role::filtered;
}

// A format that can be written asks for it when it is used, and cannot wait then.
bool may_write(const Edge& user) {
  using P = Permissions;
  if (user.permissions().uses & (P::write | P::write_unchanged | P::resize)) return true;
  return user.parent() && stores(user) && !user.parent()->read_only();
}

// They may go meanwhile.
std::vector<std::string> storage_of(const BlockNode& node) {
  std::vector<std::string> names;
  for (const Edge* edge : node.driver().edges())
    if (stores(*edge) && follows_its_users(edge->node())) names.push_back(edge->node().name());
  return names;
}

}  // namespace

bool follows_its_users(const BlockNode& node) {
  const std::string_view driver = node.driver().name();
  const NodeOptions& options = node.options();
  if (driver != "file" && driver != "host_device") return false;
  if (!options.monitor_owned || !options.active || !options.given.is_object()) return false;
  return says(options.given, "auto-read-only") && !says(options.given, "read-only") && !options.given.find("tracking");
}

bool is_read_only(const BlockNode& node) { return node.read_only() && !follows_its_users(node); }

Task<> begin_to_write(BlockNode& node) {
  if (!node.read_only() || !follows_its_users(node)) co_return;
  const auto still = co_await node.graph().drain_within(node);
  co_await set_read_only(node, false);
}

Task<> begin_to_write_storage(BlockNode& node) {
  const std::vector<std::string> names = storage_of(node);
  for (const std::string& name : names)
    if (BlockNode* storage = node.graph().find(name)) co_await begin_to_write(*storage);
}

// Persistent bitmaps are written to without a guest.
Task<> end_unused_writing(BlockNode& node) {
  const auto& users = node.parents();
  const auto is_used = [&] { return std::any_of(users.begin(), users.end(), [](const Edge* user) { return may_write(*user); }); };
  if (node.read_only() || !follows_its_users(node) || node.tracking() || is_used()) co_return;
  const auto still = co_await node.graph().drain_within(node, rest_max).result();
  if (still && !node.read_only() && !is_used()) (void)co_await set_read_only(node, true).result();
}

Task<> end_unused_writing_of_storage(BlockNode& node) {
  const std::vector<std::string> names = storage_of(node);
  for (const std::string& name : names)
    if (BlockNode* storage = node.graph().find(name)) co_await end_unused_writing(*storage);
}

Task<> end_unused_writing(Graph& graph) {
  std::vector<std::string> names;
  for (const auto& node : graph.nodes())
    if (!node->read_only() && follows_its_users(*node)) names.push_back(node->name());
  for (const std::string& name : names)
    if (BlockNode* node = graph.find(name)) co_await end_unused_writing(*node);
}

}  // namespace tidemark
