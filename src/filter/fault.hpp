// fault: a filter that fails or delays requests on purpose, for tests of what is above it and for
// users who want to see what their set-up does when a disk breaks.
//
// Each request is held against the rules in order.  Every rule that matches delays it; the first
// one that fails it ends it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/random.hpp"
#include "filter/turnstile.hpp"

namespace tidemark {

using FaultOp = RequestKind;     // faults do not strike questions where bytes are

struct FaultRule {
  std::optional<FaultOp> op;     // none: any
  std::optional<Range> range;    // requests that overlap it; none: any, flushes too
  std::uint64_t skip = 0;        // so many matching requests pass first
  std::uint64_t count = 0;       // then it acts on so many; 0: on all
  std::uint64_t one_in = 1;      // by chance on one in so many of these; 0: on none
  int os_errno = 0;              // they fail with this; 0: are only delayed
  std::uint64_t latency_ns = 0;  // by this
  std::uint64_t jitter_ns = 0;   // and up to so much more
};

struct FaultOptions {
  BlockNode* file = nullptr;
  std::vector<FaultRule> rules;
  std::optional<std::uint64_t> seed;  // of chance; none: the backend's
};

class Fault final : public Turnstile {
 public:
  Fault(Reactor& reactor, std::unique_ptr<Edge> file, FaultOptions options);

  // From the next request on; counts begin anew.
  void set_rules(std::vector<FaultRule> rules);
  std::uint64_t failed() const noexcept { return failed_; }

  std::string_view name() const noexcept override { return "fault"; }
  bool lost_by(const Error&) const noexcept override { return true; }      // it is a disk that breaks

 private:
  struct Rule {
    FaultRule rule;
    std::uint64_t seen = 0;  // matching requests
  };
  bool acts(Rule& rule, RequestKind kind, Range range);
  Task<> pass(RequestKind kind, Range range) override;

  std::vector<Rule> rules_;
  Prng random_;
  std::uint64_t failed_ = 0;
};

Result<std::unique_ptr<Fault>> open_fault(FaultOptions options);

}  // namespace tidemark
