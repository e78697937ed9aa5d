#include "control/object_commands.hpp"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "base/identifier.hpp"
#include "control/throttle_limits.hpp"

namespace tidemark {
namespace {

Result<> check(const schema::IothreadProperties& given) {
  const std::pair<std::string_view, std::int64_t> values[] = {
      {"poll-max-ns", given.poll_max_ns.value_or(0)}, {"poll-grow", given.poll_grow},         {"poll-shrink", given.poll_shrink},
      {"poll-weight", given.poll_weight}, {"aio-max-batch", given.aio_max_batch}, {"thread-pool-min", given.thread_pool_min},
      {"thread-pool-max", given.thread_pool_max}};
  for (const auto& [name, value] : values)
    if (value < 0)
      return Error(Errc::invalid_argument,
                   fmt::format("{} value must be in range [0, {}]", name, std::numeric_limits<std::int64_t>::max()));
  if (given.thread_pool_max == 0 || given.thread_pool_min > given.thread_pool_max)
    return Error(Errc::invalid_argument, "bad thread-pool-min/thread-pool-max values");
  return {};
}

}  // namespace

Task<> ObjectCommandHandler::object_add(schema::ObjectOptions arguments) {
  if (!is_identifier(arguments.id)) co_await Error(Errc::invalid_argument, "Parameter 'id' expects an identifier");
  if (objects_.has(arguments.id))
    co_await Error(Errc::exists, fmt::format("attempt to add duplicate property '{}' to object (type 'container')", arguments.id));
  if (const auto* thread = std::get_if<schema::IothreadProperties>(&arguments.branch))
    co_return co_await add_thread(std::move(arguments.id), *thread);
  const auto& given = std::get<schema::ThrottleGroupProperties>(arguments.branch);
  const ThrottleLimits limits = co_await unwrap(to_limits(given));
  auto group = std::make_shared<ThrottleGroup>();
  group->set(limits);
  objects_.throttle_groups.emplace(std::move(arguments.id), std::move(group));
}

Task<> ObjectCommandHandler::add_thread(std::string id, schema::IothreadProperties given) {
  constexpr std::int64_t workers_max = 1024;     // of one thread; more only cost memory
  constexpr Duration busy_wait_max = std::chrono::seconds(1);
  co_await unwrap(check(given));
  ThreadOptions options;
  options.workers_max = static_cast<unsigned>(std::min(given.thread_pool_max, workers_max));
  if (given.poll_max_ns) options.busy_wait_max = std::min(Duration(*given.poll_max_ns), busy_wait_max);
  co_await unwrap(homes_.add_thread(id, options));
  objects_.iothreads.emplace(std::move(id), std::move(given));
}

// Nodes hold their group.
Task<> ObjectCommandHandler::remove_group(std::string id) {
  const auto found = objects_.throttle_groups.find(id);
  if (found->second.use_count() > 1) co_await Error(Errc::busy, fmt::format("object '{}' is in use, can not be deleted", id));
  objects_.throttle_groups.erase(found);
}

bool ObjectCommandHandler::has_jobs(const Place& place) const {
  return std::any_of(jobs_.jobs().begin(), jobs_.jobs().end(), [&](const auto& job) {
    return &job->home() == &place.reactor && job->status() != JobStatus::concluded;
  });
}

Task<> ObjectCommandHandler::object_del(schema::ObjectDelArguments arguments) {
  if (objects_.throttle_groups.contains(arguments.id)) co_return co_await remove_group(std::move(arguments.id));
  const Place* place = homes_.find_thread(arguments.id);
  if (!place) co_await Error(Errc::not_found, fmt::format("object '{}' not found", arguments.id));
  const Error in_use(Errc::busy, fmt::format("object '{}' is in use, can not be deleted", arguments.id));
  if (has_jobs(*place)) co_await in_use;
  const Result<> removed = co_await homes_.remove_thread(arguments.id).result();
  if (!removed) co_await in_use;
  objects_.iothreads.erase(arguments.id);
}

}  // namespace tidemark
