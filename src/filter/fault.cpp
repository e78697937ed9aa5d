#include "filter/fault.hpp"

namespace tidemark {

Fault::Fault(Reactor& reactor, std::unique_ptr<Edge> file, FaultOptions options)
    : Turnstile(reactor, std::move(file)),
      random_(options.seed ? *options.seed : reactor.backend().random()) {
  set_rules(std::move(options.rules));
}

void Fault::set_rules(std::vector<FaultRule> rules) {
  rules_.clear();
  for (const FaultRule& rule : rules) rules_.push_back({rule});
}

bool Fault::acts(Rule& rule, RequestKind kind, Range range) {
  const FaultRule& r = rule.rule;
  if (r.op && *r.op != kind) return false;
  if (r.range && kind != RequestKind::flush && !r.range->overlaps(range)) return false;
  const std::uint64_t nth = rule.seen++;
  if (nth < r.skip || (r.count != 0 && nth - r.skip >= r.count)) return false;
  return r.one_in == 1 || (r.one_in != 0 && random_.chance(1, r.one_in));
}

Task<> Fault::pass(RequestKind kind, Range range) {
  if (kind == RequestKind::map) co_return;
  std::uint64_t latency = 0;
  int os_errno = 0;
  for (Rule& rule : rules_) {
    if (!acts(rule, kind, range)) continue;
    latency += rule.rule.latency_ns;
    if (rule.rule.jitter_ns != 0) latency += random_.below(rule.rule.jitter_ns);
    os_errno = rule.rule.os_errno;
    if (os_errno != 0) break;
  }
  if (latency != 0) co_await home().reactor().sleep(Duration(latency));
  if (os_errno == 0) co_return;
  ++failed_;
  co_await Error::from_errno(
      os_errno, "node '" + file().node().name() + "': injected fault: " + std::string(to_string(kind)));
}

Result<std::unique_ptr<Fault>> open_fault(FaultOptions options) {
  BlockNode& file = *options.file;
  auto edge = Edge::attach(file, Role::filtered, {}, "fault");
  if (!edge) return edge.error();
  return std::make_unique<Fault>(file.reactor(), *std::move(edge), std::move(options));
}

}  // namespace tidemark
