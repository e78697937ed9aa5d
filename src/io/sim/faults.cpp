#include "io/sim/faults.hpp"

#include <algorithm>
#include <cerrno>

namespace tidemark {
namespace {

bool matches(const SimFault& fault, const IoOp& op, const std::string& path) {
  return fault.count != 0 && (!fault.kind || *fault.kind == op.kind) &&
         path.find(fault.path) != std::string::npos;
}

}  // namespace

std::string_view to_string(IoOp::Kind kind) noexcept {
  static constexpr std::string_view names[] = {
      "read", "write", "sync",  "allocate", "extent", "truncate", "recv",  "send",          "accept",
      "connect", "listen", "shutdown", "open", "close", "stat", "lock", "rename", "link",
      "unlink", "mkdir", "rmdir", "list", "sync_dir", "write_back", "work"};
  static_assert(std::size(names) == static_cast<std::size_t>(IoOp::Kind::work) + 1);
  return names[static_cast<std::size_t>(kind)];
}

bool SimFaults::concerns(const IoOp& op, const std::string& path) const {
  return std::ranges::any_of(faults_, [&](const SimFault& f) { return matches(f, op, path); });
}

SimVerdict SimFaults::judge(const IoOp& op, const std::string& path) {
  SimVerdict verdict;
  for (SimFault& fault : faults_) {
    if (!matches(fault, op, path)) continue;
    if (fault.skip != 0) {
      --fault.skip;
      continue;
    }
    if (fault.count != SimFault::always) --fault.count;
    if (fault.action == SimFault::Action::fail) verdict.fail_errno = fault.os_errno;
    verdict.hang = fault.action == SimFault::Action::hang;
    verdict.crash = fault.action == SimFault::Action::crash;
    if (fault.action == SimFault::Action::delay) verdict.delay = fault.delay;
    return verdict;
  }
  verdict.fail_errno = random_failure(op);
  using Kind = IoOp::Kind;
  const bool file = op.kind == Kind::read || op.kind == Kind::write;
  const bool stream = op.kind == Kind::recv || op.kind == Kind::send;
  if (file) verdict.cut = sim_chance(prng_, options_.short_file_ppm);
  if (stream) verdict.cut = sim_chance(prng_, options_.short_stream_ppm);
  return verdict;
}

int SimFaults::random_failure(const IoOp& op) {
  const auto roll = [&](unsigned ppm, int os_errno) { return sim_chance(prng_, ppm) ? os_errno : 0; };
  switch (op.kind) {
    case IoOp::Kind::read: return roll(options_.read_error_ppm, EIO);
    case IoOp::Kind::sync: return roll(options_.sync_error_ppm, EIO);
    case IoOp::Kind::recv:
    case IoOp::Kind::send: return roll(options_.disconnect_ppm, ECONNRESET);
    case IoOp::Kind::write:
      if (const int no_space = roll(options_.no_space_ppm, ENOSPC)) return no_space;
      return roll(options_.write_error_ppm, EIO);
    case IoOp::Kind::allocate:
    case IoOp::Kind::truncate: return roll(options_.no_space_ppm, ENOSPC);
    default: return 0;
  }
}

}  // namespace tidemark
