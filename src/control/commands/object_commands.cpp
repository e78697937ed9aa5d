#include "control/commands/object_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/identifier.hpp"
#include "control/graph/iothread_properties.hpp"
#include "control/graph/throttle_limits.hpp"

namespace tidemark {

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
  co_await unwrap(check_iothread(given));
  co_await unwrap(homes_.add_thread(id, to_thread_options(given)));
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
