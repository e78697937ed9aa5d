// Properties of iothreads: by name, as qom has them, and what they come to.
#pragma once

#include <span>

#include "control/graph/homes.hpp"
#include "schema/object.hpp"

namespace tidemark {

struct IothreadProperty {
  std::string_view name;
  std::int64_t (*get)(const schema::IothreadProperties& of);
  void (*set)(schema::IothreadProperties& of, std::int64_t value);
};
// Those that can be looked up and set, in QEMU's order.
std::span<const IothreadProperty> iothread_properties() noexcept;

// Messages are QEMU's.
Result<> check_iothread(const schema::IothreadProperties& given);
ThreadOptions to_thread_options(const schema::IothreadProperties& given);

// Of one that runs, from now on.
Task<> tune_thread(Homes& homes, Place& thread, ThreadOptions options);

}  // namespace tidemark
