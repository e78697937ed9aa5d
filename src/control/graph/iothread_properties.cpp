#include "control/graph/iothread_properties.hpp"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

#include "io/tunable.hpp"

namespace tidemark {
namespace {

using Given = schema::IothreadProperties;

constexpr std::int64_t poll_max_ns_default = 200'000;

constexpr std::array<IothreadProperty, 6> properties = {{
    {"thread-pool-min", [](const Given& of) { return of.thread_pool_min; }, [](Given& of, std::int64_t v) { of.thread_pool_min = v; }},
    {"aio-max-batch", [](const Given& of) { return of.aio_max_batch; }, [](Given& of, std::int64_t v) { of.aio_max_batch = v; }},
    {"thread-pool-max", [](const Given& of) { return of.thread_pool_max; }, [](Given& of, std::int64_t v) { of.thread_pool_max = v; }},
    {"poll-max-ns", [](const Given& of) { return of.poll_max_ns.value_or(poll_max_ns_default); },
     [](Given& of, std::int64_t v) { of.poll_max_ns = v; }},
    {"poll-grow", [](const Given& of) { return of.poll_grow; }, [](Given& of, std::int64_t v) { of.poll_grow = v; }},
    {"poll-shrink", [](const Given& of) { return of.poll_shrink; }, [](Given& of, std::int64_t v) { of.poll_shrink = v; }},
}};

// At home.
Task<> tune(Reactor& reactor, ThreadOptions options) {
  auto* const backend = dynamic_cast<TunableBackend*>(&reactor.backend());
  if (!backend) co_return;
  backend->set_workers_max(options.workers_max);
  if (options.busy_wait_max) backend->set_busy_wait_max(*options.busy_wait_max);
}

}  // namespace

std::span<const IothreadProperty> iothread_properties() noexcept { return properties; }

Result<> check_iothread(const schema::IothreadProperties& given) {
  const auto negative = [](std::string_view name) {
    return Error(Errc::invalid_argument,
                 fmt::format("{} value must be in range [0, {}]", name, std::numeric_limits<std::int64_t>::max()));
  };
  for (const IothreadProperty& property : properties)
    if (property.get(given) < 0) return negative(property.name);
  if (given.poll_weight < 0) return negative("poll-weight");
  const bool too_many = std::max(given.thread_pool_min, given.thread_pool_max) > std::numeric_limits<int>::max();
  if (given.thread_pool_max == 0 || given.thread_pool_min > given.thread_pool_max || too_many)
    return Error(Errc::invalid_argument, "bad thread-pool-min/thread-pool-max values");
  return {};
}

ThreadOptions to_thread_options(const schema::IothreadProperties& given) {
  constexpr std::int64_t workers_max = 1024;     // of one thread; more only cost memory
  constexpr Duration busy_wait_max = std::chrono::seconds(1);
  ThreadOptions options;
  options.workers_max = static_cast<unsigned>(std::min(given.thread_pool_max, workers_max));
  if (given.poll_max_ns) options.busy_wait_max = std::min(Duration(*given.poll_max_ns), busy_wait_max);
  return options;
}

Task<> tune_thread(Homes& homes, Place& thread, ThreadOptions options) { return homes.at(thread, tune(thread.reactor, options)); }

}  // namespace tidemark
