// SimFaults: decides, when an operation starts, whether it will go well.  Targeted faults come
// first, in the order they were added; then the chances of SimOptions.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/sim/options.hpp"

namespace tidemark {

struct SimFault {
  enum class Action : std::uint8_t {
    fail,                                 // with os_errno; a recv or send breaks its connection
    hang,                                 // does nothing until SimWorld::release_hung()
    delay,                                // takes `delay` longer
    crash,                                // the machine crashes with the operation on its way
  } action = Action::fail;
  std::optional<IoOp::Kind> kind;         // none: any
  std::string path;                       // a part of the file's name or the address; empty: any
  std::uint64_t skip = 0;                 // so many matching operations pass first
  std::uint64_t count = 1;                // then it acts on so many
  int os_errno = 5;                       // EIO
  Duration delay{0};

  static constexpr std::uint64_t always = ~std::uint64_t{0};       // for `count`
};

// How an operation will go, decided when it starts.
struct SimVerdict {
  int fail_errno = 0;
  bool cut = false;                       // moves a part of its bytes
  bool hang = false;
  bool crash = false;
  Duration delay{0};
};

std::string_view to_string(IoOp::Kind kind) noexcept;

class SimFaults {
 public:
  SimFaults(Prng& prng, const SimOptions& options) : prng_(prng), options_(options) {}

  void add(SimFault fault) { faults_.push_back(std::move(fault)); }
  void clear() noexcept { faults_.clear(); }

  SimVerdict judge(const IoOp& op, const std::string& path);
  // True when a targeted fault counts or stops such an operation: it is not to complete inline.
  bool concerns(const IoOp& op, const std::string& path) const;

 private:
  int random_failure(const IoOp& op);

  Prng& prng_;
  const SimOptions& options_;
  std::vector<SimFault> faults_;
};

}  // namespace tidemark
