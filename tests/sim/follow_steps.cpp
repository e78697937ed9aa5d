// What is done to the disk.  Each step finds out whether there is still something to do, so that one that was interrupted is
// done again just so.
#include "tests/sim/follow_session.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t granule = 4096;

Json file_at(const std::string& path) { return Json::object({{"driver", "file"}, {"filename", path}}); }

bool has(const BlockNode& node, const std::string& bitmap) { return const_cast<BlockNode&>(node).bitmaps().find(bitmap) != nullptr; }

}  // namespace

std::string FollowSession::node_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

std::string FollowSession::root() const { return guests_.front()->node().name(); }

Task<> FollowSession::perform(const FollowStep& step) {
  switch (step.what) {
    case What::write: return write_some();
    case What::add:
    case What::stay: return add(step);
    case What::remove: return remove(step);
    case What::clear: return clear(step);
    case What::checkpoint: return checkpoint(step);
    case What::remove_checkpoint: return remove_checkpoint(step);
    case What::snapshot:
    case What::snapshot_sync: return snapshot(step);
    case What::commit: return commit(step);
    case What::stream: return stream(step);
    case What::mirror: return mirror(step);
    case What::restart: break;
  }
  TM_ASSERT(false);
}

Task<> FollowSession::write_some() {
  for (int i = 0; i < 8; ++i) co_await process_.reactor().sleep(Duration(300'000));
}

// A bitmap's point is a moment when nothing is under way.
Task<> FollowSession::add(const FollowStep& step) {
  Bitmap& bitmap = known_.bitmaps[step.name];
  if (bitmap.there) co_return;
  const Quiet quiet = co_await pause();
  if (!has(disk(), step.name)) {
    bitmap.points.assign(1, co_await read(disk()));
    if (step.what == What::stay) bitmap.home = known_.disk;
    Json arguments = Json::object({{"node", root()}, {"name", step.name}, {"granularity", granule}, {"persistent", true},
                                   {"follows-disk", step.what == What::add}});
    co_await execute("block-dirty-bitmap-add", std::move(arguments));
  }
  bitmap.there = true;
}

Task<> FollowSession::remove(const FollowStep& step) {
  const auto found = known_.bitmaps.find(step.name);
  if (found == known_.bitmaps.end()) co_return;
  found->second.gone = true;
  Json arguments = Json::object({{"node", root()}, {"name", step.name}});
  if (has(disk(), step.name)) co_await execute("block-dirty-bitmap-remove", std::move(arguments));
  known_.bitmaps.erase(step.name);
}

Task<> FollowSession::clear(const FollowStep& step) {
  if (!known_.bitmaps.contains(step.name)) co_return;
  const Quiet quiet = co_await pause();
  Stamps now = co_await read(disk());
  Bitmap& bitmap = known_.bitmaps.at(step.name);
  bitmap.points.push_back(now);
  Json arguments = Json::object({{"node", root()}, {"name", step.name}});
  co_await execute("block-dirty-bitmap-clear", std::move(arguments));
  bitmap.points.assign(1, std::move(now));
}

Task<> FollowSession::checkpoint(const FollowStep& step) {
  Bitmap& bitmap = known_.bitmaps[step.name];
  if (bitmap.there) co_return;
  const Quiet quiet = co_await pause();
  bitmap.checkpoint = true;
  if (!find_bitmap(disk(), step.name, bitmap)) {
    bitmap.points.assign(1, co_await read(disk()));
    Json disks = Json::array();
    disks.push_back(root());
    Json arguments = Json::object({{"name", step.name}, {"disks", std::move(disks)}, {"granularity", granule}});
    co_await execute("checkpoint-create", std::move(arguments));
  }
  bitmap.there = true;
}

Task<> FollowSession::remove_checkpoint(const FollowStep& step) {
  const auto found = known_.bitmaps.find(step.name);
  if (found == known_.bitmaps.end()) co_return;
  found->second.gone = true;
  Json arguments = Json::object({{"name", step.name}});
  if (find_bitmap(disk(), step.name, found->second)) co_await execute("checkpoint-delete", std::move(arguments));
  known_.bitmaps.erase(step.name);
}

Task<> FollowSession::snapshot(const FollowStep& step) {
  if (known_.disk == step.name) co_return;
  files_[node_of(step.name)] = step.name;
  if (step.what == What::snapshot_sync) {
    note_image(step.name, "qcow2");
    Json arguments = Json::object({{"node-name", root()}, {"snapshot-file", step.name}, {"snapshot-node-name", node_of(step.name)}});
    co_await execute("blockdev-snapshot-sync", std::move(arguments));
    co_return;
  }
  co_await make_image(step.name, "qcow2", known_.disk);
  co_await add_node(step.name, false);
  Json arguments = Json::object({{"node", root()}, {"overlay", node_of(step.name)}});
  co_await execute("blockdev-snapshot", std::move(arguments));
}

Task<> FollowSession::commit(const FollowStep& step) {
  const std::string top = step.top.empty() ? root() : find_layer(step.top), base = find_layer(step.base);
  if (top.empty() || base.empty() || top == base) co_return;
  Json arguments = Json::object({{"job-id", "j"}, {"device", root()}, {"top-node", top}, {"base-node", base},
                                 {"keep-active", step.keep}, {"empty-active", step.empty}});
  const std::string before = root();
  co_await execute("block-commit", std::move(arguments));
  co_await finish_job();
  co_await let_go_of(before);
}

Task<> FollowSession::stream(const FollowStep& step) {
  if (!disk().backing()) co_return;
  Json arguments = Json::object({{"job-id", "j"}, {"device", root()}});
  const std::string base = find_layer(step.base);
  if (!step.base.empty() && (base.empty() || base == disk().name())) co_return;
  if (!base.empty()) arguments.set("base-node", base);
  co_await execute("block-stream", std::move(arguments));
  co_await finish_job();
}

Task<> FollowSession::mirror(const FollowStep& step) {
  if (known_.disk == step.name) co_return;
  const std::string format = step.base.empty() ? "qcow2" : step.base;
  files_[node_of(step.name)] = step.name;
  co_await make_image(step.name, format, "");
  co_await add_node(step.name, false);
  Json arguments = Json::object({{"job-id", "j"}, {"device", root()}, {"target", node_of(step.name)}, {"sync", "full"}});
  const std::string before = root();
  co_await execute("blockdev-mirror", std::move(arguments));
  co_await finish_job();
  co_await let_go_of(before);
}

// Of what was the disk, if it is not any more.
Task<> FollowSession::let_go_of(std::string node) {
  where_now();
  Json arguments = Json::object({{"node-name", node}});
  if (node != root() && daemon_->graph().find(node)) co_await execute("blockdev-del", std::move(arguments));
}

void FollowSession::note_image(const std::string& path, const std::string& format) { known_.formats[path] = format; }

Task<> FollowSession::create(Json options) {
  Json arguments = Json::object({{"job-id", "create"}, {"options", std::move(options)}});
  co_await execute("blockdev-create", std::move(arguments));
  for (bool over = false; !over;) {
    co_await process_.reactor().sleep(Duration(50'000));
    const Json jobs = co_await execute("query-jobs", Json::object());
    const Json& job = jobs.as_array().front();
    over = job.find("status")->as_string() == "concluded";
    if (job.find("error")) co_await Error(Errc::io, "blockdev-create failed: " + job.find("error")->as_string());
  }
  Json dismissed = Json::object({{"id", "create"}});
  co_await execute("job-dismiss", std::move(dismissed));
}

Task<> FollowSession::make_image(std::string path, std::string format, std::string backing) {
  note_image(path, format);
  Json file = file_at(path);
  file.set("size", format == "raw" ? FollowKnown::disk_size : 0);
  co_await create(std::move(file));
  if (format == "raw") co_return;
  Json image = Json::object({{"driver", "qcow2"}, {"file", file_at(path)}, {"size", FollowKnown::disk_size}, {"cluster-size", granule}});
  if (!backing.empty()) {
    image.set("backing-file", backing);
    image.set("backing-fmt", known_.formats.at(backing));
  }
  co_await create(std::move(image));
}

Task<> FollowSession::add_node(std::string path, bool backing) {
  const std::string& format = known_.formats.at(path);
  Json node = Json::object({{"driver", format}, {"node-name", node_of(path)}, {"file", file_at(path)}});
  if (!backing && format == "qcow2") node.set("backing", Json());
  co_await execute("blockdev-add", std::move(node));
}

Task<> FollowSession::finish_job() {
  for (bool completing = false;;) {
    const Json jobs = co_await execute("query-jobs", Json::object());
    if (jobs.as_array().empty()) break;
    if (!completing && jobs.as_array().front().find("status")->as_string() == "ready") {
      completing = true;
      Json id = Json::object({{"id", "j"}});
      co_await execute("job-complete", std::move(id));
    }
    co_await process_.reactor().sleep(Duration(200'000));
  }
  if (const auto failure = std::exchange(failure_, std::nullopt)) co_await Error(Errc::io, "a job failed: " + *failure);
}

// The node of the chain that has the file; empty when there is none.
std::string FollowSession::find_layer(const std::string& path) const {
  for (const BlockNode* at = &disk(); at; at = at->backing())
    if (files_.at(at->name()) == path) return at->name();
  return "";
}

}  // namespace tidemark::sim
