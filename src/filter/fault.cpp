#include "filter/fault.hpp"

namespace tidemark {
namespace {

std::string_view verb(FaultOp op) noexcept {
  switch (op) {
    case FaultOp::read: return "read";
    case FaultOp::write: return "write";
    case FaultOp::write_zeroes: return "write zeroes";
    case FaultOp::discard: return "discard";
    case FaultOp::flush: break;
  }
  return "flush";
}

}  // namespace

Fault::Fault(Reactor& reactor, std::unique_ptr<Edge> file, FaultOptions options)
    : BlockDriver(reactor),
      file_(std::move(file)),
      random_(options.seed ? *options.seed : reactor.backend().random()) {
  set_rules(std::move(options.rules));
}

void Fault::set_rules(std::vector<FaultRule> rules) {
  rules_.clear();
  for (const FaultRule& rule : rules) rules_.push_back({rule});
}

std::vector<Edge*> Fault::edges() const {
  return file_ ? std::vector<Edge*>{file_.get()} : std::vector<Edge*>{};
}

bool Fault::acts(Rule& rule, FaultOp op, Range range) {
  const FaultRule& r = rule.rule;
  if (r.op && *r.op != op) return false;
  if (r.range && op != FaultOp::flush && !r.range->overlaps(range)) return false;
  const std::uint64_t nth = rule.seen++;
  if (nth < r.skip || (r.count != 0 && nth - r.skip >= r.count)) return false;
  return r.one_in == 1 || (r.one_in != 0 && random_.chance(1, r.one_in));
}

Task<> Fault::pass(FaultOp op, Range range) {
  std::uint64_t latency = 0;
  int os_errno = 0;
  for (Rule& rule : rules_) {
    if (!acts(rule, op, range)) continue;
    latency += rule.rule.latency_ns;
    if (rule.rule.jitter_ns != 0) latency += random_.below(rule.rule.jitter_ns);
    os_errno = rule.rule.os_errno;
    if (os_errno != 0) break;
  }
  if (latency != 0) co_await home().reactor().sleep(Duration(latency));
  if (os_errno == 0) co_return;
  ++failed_;
  co_await Error::from_errno(
      os_errno, "node '" + file_->node().name() + "': injected fault: " + std::string(verb(op)));
}

Task<> Fault::read(std::uint64_t offset, Buffers into) {
  const Range range{offset, into.size()};
  co_await pass(FaultOp::read, range);
  co_await file_->read(offset, into);
}

Task<> Fault::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Range range{offset, from.size()};
  co_await pass(FaultOp::write, range);
  co_await file_->write(offset, from, flags);
}

Task<> Fault::write_compressed(std::uint64_t offset, Buffers from) {
  const Range range{offset, from.size()};
  co_await pass(FaultOp::write, range);
  co_await file_->write_compressed(offset, from);
}

Task<> Fault::write_zeroes(Range range, WriteFlags flags) {
  co_await pass(FaultOp::write_zeroes, range);
  co_await file_->write_zeroes(range, flags);
}

Task<> Fault::discard(Range range) {
  co_await pass(FaultOp::discard, range);
  co_await file_->discard(range);
}

Task<> Fault::flush() {
  constexpr Range nothing;
  co_await pass(FaultOp::flush, nothing);
  co_await file_->flush();
}

Task<> Fault::close() {
  file_.reset();
  co_return;
}

Result<std::unique_ptr<Fault>> open_fault(FaultOptions options) {
  BlockNode& file = *options.file;
  auto edge = Edge::attach(file, Role::filtered, {}, "fault");
  if (!edge) return edge.error();
  return std::make_unique<Fault>(file.reactor(), *std::move(edge), std::move(options));
}

}  // namespace tidemark
