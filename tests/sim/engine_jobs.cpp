// The jobs that sessions start: what is heard of them, and targets for them.
#include "io/file.hpp"
#include "tests/sim/engine_session.hpp"

namespace tidemark::sim {

// The moment of a backup's point, with its disk at rest.
void Session::status_changed(const std::string& id, JobStatus status) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) return;
  Watched& job = found->second;
  if (status == JobStatus::running && !job.began) begun(job);
  if (status == JobStatus::concluded) job.over = true;
  job_changed_.notify_all();
}

void Session::begun(Watched& job) {
  job.began = true;
  if (!alive() || job.path.empty()) return;
  MachineDisk& disk = machine_.disks[job.disk];
  job.point = disk.content.now();
  if (disk.incremental.under_way == job.path) disk.incremental.began = true;
  // Of one transaction all points are of one moment.
  for (const auto& [id, other] : jobs_)
    if (&other != &job && other.began && other.command == job.command && other.writes_then != writes_under(job.command))
      complain("the points of one transaction are of two moments");
  job.writes_then = writes_under(job.command);
  if (job.bitmap.empty()) return;
  BitmapState after;
  after.since.push_back(job.point);
  disk.bitmaps.at(job.bitmap).may_be.push_back(std::move(after));
}

// Of all disks that a command backs up.
std::uint64_t Session::writes_under(unsigned command) const {
  std::uint64_t sum = 0;
  for (const auto& [id, job] : jobs_)
    if (job.command == command) sum += machine_.disks[job.disk].content.writes_ended();
  return sum;
}

void Session::completed(const JobInfo& job) { over(job, false); }
void Session::cancelled(const JobInfo& job) { over(job, true); }

void Session::over(const JobInfo& info, bool was_cancelled) {
  const auto found = jobs_.find(info.id);
  if (found == jobs_.end() || !alive()) return;
  Watched& job = found->second;
  job.cancelled = was_cancelled;
  job.error = info.error;
  const MachineDisk& disk = machine_.disks[job.disk];
  const bool may_fail = job.may_overflow || disk.may_fail || machine_.stores_fail || machine_.targets_fail;
  if (info.error && !was_cancelled && !may_fail && !job.path.empty()) complain("a backup failed: " + *info.error);
  if (!was_cancelled && !info.error && job.began && !job.path.empty())
    machine_.done[job.path] = {job.disk, job.path, job.format, job.point, job.top_only};
  if (job.bitmap.empty() || !job.began) return;
  BitmapModel& bitmap = machine_.disks[job.disk].bitmaps.at(job.bitmap);
  const bool well = !was_cancelled && !info.error;
  if (well) bitmap.settle(bitmap.may_be.back());
  else if (job.always) bitmap.settle({});                      // what is in the target it has no more
  else bitmap.may_be.pop_back();
}

// Fails when the process ends.
Task<> Session::wait_for(std::vector<std::string> jobs) {
  for (const std::string& id : jobs)
    while (!jobs_.at(id).over) {
      if (!alive()) co_await Error(Errc::io, "the process has ended");
      co_await job_changed_.wait();
    }
  if (!alive()) co_await Error(Errc::io, "the process has ended");
}

// blockdev-create; false when it failed.
Task<bool> Session::create(Json options) {
  const std::string id = machine_.new_name("create");
  jobs_[id] = {};
  Json arguments = Json::object({{"job-id", id}, {"options", std::move(options)}});
  co_await must("blockdev-create", std::move(arguments));
  std::vector<std::string> this_one{id};
  co_await wait_for(std::move(this_one));
  jobs_.erase(id);
  const Result<Json> jobs = co_await execute("query-jobs", Json::object());
  std::optional<std::string> error;
  for (const Json& job : jobs->as_array())
    if (job.find("id")->as_string() == id && job.find("error")) error = job.find("error")->as_string();
  Json dismissed = Json::object({{"id", id}});
  co_await must("job-dismiss", std::move(dismissed));
  if (error && !machine_.targets_fail) complain("blockdev-create failed: " + *error);
  co_return !error;
}

Json file_at(const std::string& path) { return Json::object({{"driver", "file"}, {"filename", path}}); }

Task<bool> Session::make_target(std::uint64_t size, std::string path, std::string format, std::string backing) {
  Json file = file_at(path);
  file.set("size", format == "raw" ? size : 0);
  const bool there = co_await create(std::move(file));
  if (!there || format == "raw") co_return there;
  Json image = Json::object({{"driver", "qcow2"}, {"file", file_at(path)}, {"size", size},
                             {"cluster-size", random_.chance(1, 2) ? 65536 : 4096}});
  if (!backing.empty()) {
    image.set("backing-file", backing.substr(backing.rfind('/') + 1));
    image.set("backing-fmt", "qcow2");
  }
  co_return co_await create(std::move(image));
}

Task<bool> Session::add_target(std::string path, std::string format, std::string node, bool open_backing) {
  Json target = Json::object({{"driver", format}, {"node-name", node}, {"file", file_at(path)}});
  if (format == "qcow2" && !open_backing) target.set("backing", Json());
  const Result<Json> added = co_await execute("blockdev-add", std::move(target));
  if (!added && !machine_.targets_fail) complain("a target cannot be opened: " + added.error().message());
  co_return added.ok();
}

// Nobody misses them from now on; who restarts looks for what is left of them.
Task<> Session::drop_files(std::vector<std::string> paths) {
  for (const std::string& path : paths) {
    machine_.done.erase(path);
    machine_.litter.insert(path);
  }
  for (const std::string& path : paths)
    if (world_.disk().exists(path)) co_await fs::unlink(reactor_, path);
  if (!paths.empty()) co_await fs::sync_dir(reactor_, "/b");
  for (const std::string& path : paths) machine_.litter.erase(path);
}

Task<> Session::drop_file(std::string path) {
  std::vector<std::string> paths;
  if (!path.empty()) paths.push_back(std::move(path));
  return drop_files(std::move(paths));
}

}  // namespace tidemark::sim
