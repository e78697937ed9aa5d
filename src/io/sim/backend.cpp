#include "io/sim/backend.hpp"

#include <cerrno>

namespace tidemark {
namespace {

constexpr std::uint64_t waits_to_die = 100'000;

}  // namespace

SimBackend::SimBackend(SimWorld& world, std::string name) : world_(world), name_(std::move(name)) {
  world_.attach(*this);
}

SimBackend::~SimBackend() { world_.detach(*this); }

void SimBackend::kill() {
  if (!alive_) return;
  world_.interrupt(this);
  world_.end_all(*this);
  die();
}

void SimBackend::die() {
  alive_ = false;
  for (auto& [handle, target] : std::exchange(handles_, {})) {
    if (target.socket) world_.network_.close(*target.socket);
    if (target.listener) world_.network_.close(*target.listener);
  }
}

SimWorld::Flight SimBackend::flight_of(IoOp& op) {
  SimWorld::Flight flight{this, &op, {}, {}};
  if (const auto it = handles_.find(op.handle); it != handles_.end()) flight.target = it->second;
  if (op.handle != Handle::none || !op.extra) return flight;
  const bool address = op.kind == IoOp::Kind::connect || op.kind == IoOp::Kind::listen;
  flight.target.path = address ? op.extra->address.describe() : op.extra->path;
  return flight;
}

bool SimBackend::try_now(IoOp& op) noexcept {
  using Kind = IoOp::Kind;
  const bool file = op.kind == Kind::read || op.kind == Kind::write;
  const bool stream = op.kind == Kind::recv || op.kind == Kind::send || op.kind == Kind::shutdown;
  if (!alive_ || op.durable || !(file || stream)) return false;
  if (!sim_chance(world_.luck_, world_.options_.inline_ppm)) return false;
  SimWorld::Flight flight = flight_of(op);
  if (flight.target.file && flight.target.file->flags.direct) return false;
  return world_.launch_now(std::move(flight));
}

void SimBackend::submit(IoOp& op) {
  op.backend_data[0] = 0;
  if (alive_) world_.launch(flight_of(op));
  else answer_dead(op);
}

void SimBackend::answer_dead(IoOp& op) {
  using Kind = IoOp::Kind;
  if (op.kind == Kind::work) op.extra->work();
  const bool fine = op.kind == Kind::work || op.kind == Kind::close || op.kind == Kind::shutdown;
  op.result = fine ? 0 : -EIO;
  completed_.push_back(&op);
}

void SimBackend::cancel(IoOp& op) { world_.cancel(op.backend_data[0]); }

void SimBackend::wait(Instant deadline, std::vector<IoOp*>& completed) {
  if (!alive_ && ++waits_dead_ > waits_to_die) world_.report(*this, "it is dead and does not end");
  deadline_ = deadline;
  world_.let_run(*this);
  // What it is given makes more to do, perhaps: its reactor's next wait says until when it is idle.
  if (woken_.exchange(false) || !completed_.empty()) deadline_ = Instant::min();
  completed.insert(completed.end(), completed_.begin(), completed_.end());
  completed_.clear();
}

std::int64_t SimBackend::keep(SimTarget target) {
  handles_[static_cast<Handle>(++last_handle_)] = std::move(target);
  return last_handle_;
}

std::int64_t SimBackend::close(Handle handle) {
  const auto it = handles_.find(handle);
  if (it == handles_.end()) return -EBADF;
  const SimTarget target = std::move(it->second);
  handles_.erase(it);
  if (target.socket) world_.network_.close(*target.socket);
  if (target.listener) world_.network_.close(*target.listener);
  return 0;
}

std::int64_t SimBackend::perform(SimWorld::Flight& flight, std::uint64_t id) {
  using Kind = IoOp::Kind;
  IoOp& op = *flight.op;
  if (op.kind >= Kind::recv && op.kind <= Kind::shutdown) return perform_on_socket(flight, id);
  switch (op.kind) {
    case Kind::work: return op.extra->work(), 0;
    case Kind::close: {
      const std::int64_t result = close(op.handle);
      return flight.start.fail_errno ? -flight.start.fail_errno : result;
    }
    case Kind::open: {
      SimTarget opened{op.extra->path, {}, {}, {}};
      const std::int64_t result = world_.disk_.open(op, flight.start, opened.file);
      return result < 0 ? result : keep(std::move(opened));
    }
    default: return world_.disk_.run(op, flight.target.file.get(), flight.start);
  }
}

std::int64_t SimBackend::perform_on_socket(SimWorld::Flight& flight, std::uint64_t id) {
  using Kind = IoOp::Kind;
  IoOp& op = *flight.op;
  SimTarget& target = flight.target;
  SimNetwork& network = world_.network_;
  if (op.kind == Kind::connect || op.kind == Kind::listen || op.kind == Kind::accept) {
    if (flight.start.fail_errno) return -flight.start.fail_errno;
    if (op.kind == Kind::accept && !target.listener) return target.path.empty() ? -EBADF : -ENOTSOCK;
    SimTarget made{target.path, {}, {}, {}};
    const std::int64_t result =
        op.kind == Kind::connect  ? network.connect(op.extra->address, made.socket)
        : op.kind == Kind::listen ? network.listen(op.extra->address, made.listener)
                                  : network.accept(*target.listener, id, made.socket);
    return result < 0 ? result : keep(std::move(made));
  }
  if (!target.socket) return target.path.empty() ? -EBADF : -ENOTSOCK;
  switch (op.kind) {
    case Kind::recv: return network.recv(*target.socket, op.buffers, flight.start, id);
    case Kind::send: return network.send(*target.socket, op.buffers, flight.start, id);
    default: return network.shutdown(*target.socket);
  }
}

}  // namespace tidemark
