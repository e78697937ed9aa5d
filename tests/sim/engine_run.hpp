// A whole life of a simulated machine by a seed, and power cuts at any operation of it.
//
// The life is a row of sessions, each of which ends well, is killed or crashes.  At operations in between the
// machine is copied as a power cut would leave it, in several ways; each copy is started again, perhaps crashes
// again meanwhile, and must be as it is to be.  The life itself goes on as if nothing had been asked, so a power
// cut costs a restart and no life of its own.
#pragma once

#include "tests/sim/engine_session.hpp"

namespace tidemark::sim {

struct LifePlan {
  int sessions = 4;
  int steps = 10;                                  // of each operator, a session
  std::uint64_t gap = 12;                          // operations between two that are crashed at, on average
  std::uint64_t fates = 2;                         // power cuts at each
  bool faults = true;                              // in some sessions
  std::uint64_t cancels = 6;                       // one backup of so many
  Workings workings = {Rule::none, 16 * KiB, 192 * KiB};
  std::function<void(std::string_view)> trace{};   // takes what happens, where one case is asked for
};

// One of a life's crashes: at an operation, counted from the life's beginning; 0: the life itself.
struct LifeCase {
  std::uint64_t seed = 1, op = 0, fate = 0;
};

struct LifeReport {
  std::uint64_t crashes = 0;                       // all of them
  std::uint64_t places = 0;                        // operations crashed at
  std::uint64_t ops = 0;
  std::optional<Error> failure;
};

// The kernel starts, for the `number`th time.
void boot(SimWorld& world, std::uint64_t number);
Result<Machine> make_machine(SimWorld& world, Prng& random);
// Others have their turn on qcow2 images while no daemon runs; `closed`: the last one ended well.
Result<> visit_images(SimWorld& world, Machine& machine, bool closed, Prng& random);

// To the first failure, or to the end; with all crashes of a life, or with `only` one when it names an operation.
// `under_way` is always what is being tried, or what failed.
LifeReport live(const LifeCase& only, const LifePlan& plan, LifeCase& under_way);

}  // namespace tidemark::sim
