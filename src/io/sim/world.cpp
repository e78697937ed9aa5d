#include "io/sim/world.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "io/sim/backend.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t fates_salt = 0x63726173685f6174, numbers_salt = 0x6e756d62657273;

// True when what a crash leaves may be another with the operation than without it.
bool matters_to_crash(const IoOp& op) noexcept {
  using Kind = IoOp::Kind;
  switch (op.kind) {
    case Kind::write: case Kind::sync: case Kind::allocate: case Kind::truncate:
    case Kind::rename: case Kind::link: case Kind::unlink:
    case Kind::mkdir: case Kind::rmdir: case Kind::sync_dir: return true;
    case Kind::open:
      return op.extra->open.create || op.extra->open.truncate;
    default: return false;
  }
}

bool is_of_sockets(const IoOp& op) noexcept {
  return op.kind >= IoOp::Kind::recv && op.kind <= IoOp::Kind::shutdown;
}

}  // namespace

SimWorld::SimWorld(std::uint64_t seed, SimOptions options)
    : seed_(seed),
      options_(options),
      luck_(seed),
      fates_(seed ^ fates_salt ^ (options.crash_seed * 0x9e3779b97f4a7c15)),
      numbers_(seed ^ numbers_salt),
      clock_(options.wall_clock_start_ns),
      disk_(clock_, luck_, options_),
      network_(clock_, luck_, options_, disk_, [this](std::uint64_t id) { attempt(id); }),
      faults_(luck_, options_) {
  TM_ASSERT(is_power_of_two(options.sector) && options.sector >= 512 && options.sector <= 4096);
}

SimWorld::~SimWorld() { TM_ASSERT(backends_.empty()); }

void SimWorld::attach(SimBackend& backend) {
  backend.number_ = ++attached_;
  backends_.push_back(&backend);
}

void SimWorld::detach(SimBackend& backend) {
  for (const auto& [id, flight] : flights_) TM_ASSERT(flight.backend != &backend);
  std::erase(backends_, &backend);
}

bool SimWorld::count(const IoOp& op) {
  if (!matters_to_crash(op)) return false;
  ++ops_;
  if (watcher_) watcher_();
  return crash_in_ != 0 && --crash_in_ == 0;
}

void SimWorld::launch(Flight flight) {
  const std::uint64_t id = ++last_id_;
  IoOp& op = *flight.op;
  op.backend_data[0] = id;
  const SimVerdict verdict = faults_.judge(op, flight.target.path);
  flight.start = disk_.start(flight.target.file.get());
  flight.start.fail_errno = verdict.fail_errno;
  flight.start.cut = verdict.cut;
  flight.delay = verdict.delay;
  if (verdict.hang) flight.state = Flight::State::hung;
  trace(flight, "starts", 0);
  flights_.emplace(id, std::move(flight));
  const bool crash_here = count(op) || verdict.crash;
  if (crash_here) crash();
  else if (!verdict.hang) schedule(id);
}

bool SimWorld::launch_now(Flight flight) {
  const IoOp& op = *flight.op;
  if (faults_.concerns(op, flight.target.path)) return false;
  if (crash_in_ == 1 && matters_to_crash(op)) return false;
  const SimVerdict verdict = faults_.judge(op, flight.target.path);
  flight.start = disk_.start(flight.target.file.get());
  flight.start.fail_errno = verdict.fail_errno;
  flight.start.cut = verdict.cut;
  const std::int64_t result = flight.backend->perform(flight, 0);
  if (result == sim_would_block) return false;
  (void)count(op);
  flight.op->result = result;
  trace(flight, "at once", result);
  return true;
}

void SimWorld::schedule(std::uint64_t id) {
  const Flight& flight = flights_.at(id);
  const IoOp& op = *flight.op;
  const SimOptions& o = options_;
  Duration latency = flight.delay;
  if (op.kind == IoOp::Kind::connect)
    latency += sim_latency(luck_, o.net_latency_min, o.net_latency_max);
  else if (!is_of_sockets(op))
    latency += sim_latency(luck_, o.disk_latency_min, o.disk_latency_max);
  clock_.at(clock_.now() + latency, [this, id] { attempt(id); });
}

void SimWorld::attempt(std::uint64_t id) {
  const auto it = flights_.find(id);
  if (it == flights_.end()) return;               // it was cancelled, or its process died
  const std::int64_t result = it->second.backend->perform(it->second, id);
  if (result != sim_would_block) end(id, result);
  else if (it->second.cancelled) end(id, -ECANCELED);
  else it->second.state = Flight::State::blocked;
}

void SimWorld::end(std::uint64_t id, std::int64_t result) {
  const Flight flight = std::move(flights_.extract(id).mapped());
  trace(flight, "ends", result);
  flight.op->result = result;
  flight.backend->completed_.push_back(flight.op);
}

void SimWorld::end_all(const SimBackend& backend) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, flight] : flights_)
    if (flight.backend == &backend) ids.push_back(id);
  for (const std::uint64_t id : ids) end(id, -EIO);
}

void SimWorld::cancel(std::uint64_t id) {
  const auto it = flights_.find(id);
  if (it == flights_.end() || it->second.op->kind == IoOp::Kind::close) return;
  const bool waits = it->second.state != Flight::State::due;
  if (waits || sim_chance(luck_, options_.cancel_ppm)) end(id, -ECANCELED);
  else it->second.cancelled = true;               // it may still succeed, but no longer wait
}

void SimWorld::release_hung() {
  for (auto& [id, flight] : flights_) {
    if (flight.state != Flight::State::hung) continue;
    flight.state = Flight::State::due;
    schedule(id);
  }
}

namespace {

// Half of them, in any order.
template <class Flight>
std::vector<Flight*> some_of(std::vector<Flight*> flights, Prng& fates) {
  for (std::size_t i = flights.size(); i > 1; --i) std::swap(flights[i - 1], flights[fates.below(i)]);
  std::erase_if(flights, [&](const Flight* flight) { return !fates.chance(1, 2) || flight->start.fail_errno != 0; });
  return flights;
}

}  // namespace

void SimWorld::interrupt(SimBackend* only) {
  std::vector<Flight*> all;
  for (auto& [id, flight] : flights_)
    if ((!only || flight.backend == only) && matters_to_crash(*flight.op)) all.push_back(&flight);
  for (Flight* flight : some_of(std::move(all), fates_)) {
    flight->start.interrupted = true;
    (void)flight->backend->perform(*flight, 0);
  }
}

void SimWorld::interrupt(const SimWorld& other, const SimDisk::Nodes& nodes) {
  std::vector<const Flight*> all;
  for (const auto& [id, flight] : other.flights_)
    if (matters_to_crash(*flight.op)) all.push_back(&flight);
  for (const Flight* flight : some_of(std::move(all), fates_)) {
    IoOp& op = *flight->op;                       // of these kinds none is written to
    SimStart start = flight->start;
    start.interrupted = true;
    std::shared_ptr<SimOpenFile> file;
    if (op.kind == IoOp::Kind::open) {
      (void)disk_.open(op, start, file);
      continue;
    }
    if (const auto& open = flight->target.file) {
      const auto node = nodes.find(open->node.get());
      if (node == nodes.end()) continue;          // no name leads there, so nothing of it is left
      file = std::make_shared<SimOpenFile>(node->second, open->flags, open->id);
    }
    (void)disk_.run(op, file.get(), start);
  }
}

std::unique_ptr<SimWorld> SimWorld::after_crash(std::uint64_t fate) const {
  SimOptions options = options_;
  options.crash_seed = fate;
  options.wall_clock_start_ns = clock_.wall_ns();
  auto left = std::make_unique<SimWorld>(seed_ + ops_ * 0x9e3779b97f4a7c15 + fate, options);
  const SimDisk::Nodes nodes = left->disk_.become(disk_);
  left->interrupt(*this, nodes);
  left->disk_.crash(left->fates_);
  return left;
}

void SimWorld::crash() {
  ++crashes_;
  crash_in_ = 0;
  interrupt(nullptr);
  for (SimBackend* backend : backends_) end_all(*backend);
  for (SimBackend* backend : backends_) backend->die();
  network_.crash();
  disk_.crash(fates_);
  if (trace_) trace_("the machine crashes");
}

void SimWorld::let_run(SimBackend& waiting) {
  clock_.advance_to(clock_.now() + options_.turn_time);
  clock_.fire_due();
  if (waiting.given_turn_) return;                // the process that gave it goes on picking
  for (;;) {
    SimBackend* next = next_to_run(waiting);
    if (next == &waiting) return;
    if (!next) continue;
    next->given_turn_ = next->on_stack_ = true;
    next->turn_();
    next->given_turn_ = next->on_stack_ = false;
  }
}

SimBackend* SimWorld::next_to_run(SimBackend& waiting) {
  std::vector<SimBackend*> runnable;
  Instant next = clock_.next_event();
  for (SimBackend* backend : backends_) {
    if (backend != &waiting && (!backend->turn_ || backend->on_stack_)) continue;
    if (backend->runnable()) runnable.push_back(backend);
    next = std::min(next, backend->deadline_);
  }
  if (!runnable.empty()) return runnable[luck_.below(runnable.size())];
  if (next == no_deadline) report(waiting, "deadlock: it waits for nothing");
  clock_.advance_to(next);
  clock_.fire_due();
  return nullptr;
}

std::string SimWorld::describe(const Flight& flight) const {
  const IoOp& op = *flight.op;
  std::string text = flight.backend->process_name() + ": ";
  text.append(to_string(op.kind)).append(" '").append(flight.target.path).append("'");
  if (op.kind == IoOp::Kind::rename || op.kind == IoOp::Kind::link)
    text.append(" to '").append(op.extra->path2).append("'");
  const std::uint64_t length = op.length ? op.length : op.buffers.size();
  if (op.offset || length) text += " " + std::to_string(op.offset) + "+" + std::to_string(length);
  return text + (op.durable ? " durable" : "");
}

void SimWorld::report(const SimBackend& waiting, std::string_view what) const {
  std::fprintf(stderr, "simulation with seed %llu, after %lld ns, process '%s': %.*s\n",
               static_cast<unsigned long long>(seed_), static_cast<long long>(now().count()),
               waiting.process_name().c_str(), static_cast<int>(what.size()), what.data());
  for (const auto& [id, flight] : flights_)
    std::fprintf(stderr, "  in flight%s: %s\n",
                 flight.state == Flight::State::hung ? ", held up by a fault" : "",
                 describe(flight).c_str());
  if (flights_.empty()) std::fprintf(stderr, "  no operation is in flight\n");
  std::abort();
}

void SimWorld::trace(const Flight& flight, std::string_view event, std::int64_t result) {
  const IoOp& op = *flight.op;
  const std::uint64_t words[] = {static_cast<std::uint64_t>(now().count()), flight.backend->number_,
                                 static_cast<std::uint64_t>(op.kind), op.offset, op.length,
                                 op.buffers.size(), event.size(), static_cast<std::uint64_t>(result)};
  for (const std::uint64_t word : words)
    trace_hash_ = std::rotl((trace_hash_ ^ word) * 0x9e3779b97f4a7c15, 29);
  if (!trace_) return;
  std::string line = std::to_string(now().count()) + " " + describe(flight);
  line.append(", ").append(event);
  if (event != "starts") line += ": " + std::to_string(result);
  trace_(line);
}

}  // namespace tidemark
