#include "control/commands/stats_commands.hpp"

#include <fmt/format.h>

namespace tidemark {
namespace {

std::int64_t to_int(std::uint64_t value) { return static_cast<std::int64_t>(value); }

schema::BlockDeviceStats describe(const BlockStats& counted) {
  schema::BlockDeviceStats stats;
  stats.rd_bytes = to_int(counted.read.bytes);
  stats.rd_operations = to_int(counted.read.operations);
  stats.rd_total_time_ns = to_int(counted.read.time_ns);
  stats.failed_rd_operations = to_int(counted.read.failed);
  stats.wr_bytes = to_int(counted.write.bytes + counted.write_zeroes.bytes);
  stats.wr_operations = to_int(counted.write.operations + counted.write_zeroes.operations);
  stats.wr_total_time_ns = to_int(counted.write.time_ns + counted.write_zeroes.time_ns);
  stats.failed_wr_operations = to_int(counted.write.failed + counted.write_zeroes.failed);
  stats.unmap_bytes = to_int(counted.discard.bytes);
  stats.unmap_operations = to_int(counted.discard.operations);
  stats.unmap_total_time_ns = to_int(counted.discard.time_ns);
  stats.failed_unmap_operations = to_int(counted.discard.failed);
  stats.flush_operations = to_int(counted.flush.operations);
  stats.flush_total_time_ns = to_int(counted.flush.time_ns);
  stats.failed_flush_operations = to_int(counted.flush.failed);
  stats.wr_highest_offset = to_int(counted.write_highest);
  stats.account_failed = true;
  return stats;
}

std::optional<schema::BlockStatsSpecific> describe_driver(const BlockNode& node) {
  const std::string_view driver = node.driver().name();
  if (driver != "file" && driver != "host_device") return std::nullopt;
  schema::BlockStatsSpecificFile counted;
  counted.discard_nb_ok = node.stats().discard.operations;
  counted.discard_nb_failed = node.stats().discard.failed;
  counted.discard_bytes_ok = node.stats().discard.bytes;
  schema::BlockStatsSpecific specific;
  specific.driver = driver == "file" ? schema::BlockdevDriver::file : schema::BlockdevDriver::host_device;
  specific.branch = counted;
  return specific;
}

// Where its data is: a data file, before the file that says what is where in it.
BlockNode* storage_of(const BlockNode& node) {
  for (const Role role : {Role::data_file, Role::file, Role::filtered})
    if (Edge* edge = node.child(role)) return &edge->node();
  return nullptr;
}

schema::BlockStats describe_all(const BlockNode& node) {
  schema::BlockStats stats;
  stats.node_name = node.name();
  stats.stats = describe(node.stats());
  stats.driver_specific = describe_driver(node);
  if (const BlockNode* storage = storage_of(node)) stats.parent = describe_all(*storage);
  return stats;
}

// On the nodes' thread.

Task<std::vector<schema::BlockStats>> describe_nodes(Graph& graph) {
  std::vector<schema::BlockStats> all;
  for (const auto& node : graph.nodes()) all.push_back(describe_all(*node));
  co_return std::move(all);
}

Error not_there(const std::string& name) { return Error(Errc::not_found, fmt::format("Device '{}' not found", name)); }

// The node may be gone since it was found.
Task<> set_threshold(Graph& graph, const std::string& name, std::uint64_t threshold) {
  BlockNode* node = graph.find(name);
  if (!node) co_await not_there(name);
  node->set_write_threshold(threshold);
}

}  // namespace

Task<std::vector<schema::BlockStats>> StatsCommandHandler::query_blockstats(schema::QueryBlockstatsArguments arguments) {
  std::vector<schema::BlockStats> all;
  if (!arguments.query_nodes) co_return std::move(all);
  for (Place* place : homes_.all()) {
    auto there = co_await homes_.at(*place, describe_nodes(place->graph));
    all.insert(all.end(), std::make_move_iterator(there.begin()), std::make_move_iterator(there.end()));
  }
  co_return std::move(all);
}

Task<std::vector<schema::BlockInfo>> StatsCommandHandler::query_block(schema::QueryBlockArguments) {
  co_return std::vector<schema::BlockInfo>();
}

Task<> StatsCommandHandler::block_set_write_threshold(schema::BlockSetWriteThresholdArguments arguments) {
  Place* place = co_await homes_.find(arguments.node_name);
  if (!place) co_await not_there(arguments.node_name);
  co_await homes_.at(*place, set_threshold(place->graph, arguments.node_name, arguments.write_threshold));
}

}  // namespace tidemark
