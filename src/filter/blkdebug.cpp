#include "filter/blkdebug.hpp"

#include <algorithm>
#include <limits>

namespace tidemark {
namespace {

std::uint32_t narrow(std::uint64_t value) noexcept {
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(value, std::numeric_limits<std::uint32_t>::max()));
}
// The lower of two limits, of which 0 is none.
std::uint64_t lower(std::uint64_t a, std::uint64_t b) noexcept { return a == 0 || (b != 0 && b < a) ? b : a; }
// What is asked for need not be a power of two; what is aligned to it is aligned to this, too.
std::uint32_t power_in(std::uint64_t value) noexcept { return narrow(value & (~value + 1)); }

class Blkdebug final : public Turnstile {
 public:
  Blkdebug(Reactor& reactor, std::unique_ptr<Edge> edge, BlkdebugOptions options)
      : Turnstile(reactor, std::move(edge)), options_(std::move(options)),
        rules_(options_.rules.begin(), options_.rules.end()) {
    told(DebugEvent::none);
  }

  std::string_view name() const noexcept override { return "blkdebug"; }
  std::string_view child_name(const Edge&) const noexcept override { return "image"; }
  BlockLimits limits() const noexcept override;
  Permissions child_permissions(const Edge&, Permissions node, bool) const override {
    return {static_cast<Permissions::Set>(node.uses | options_.takes), static_cast<Permissions::Set>(node.shares & ~options_.unshares)};
  }
  Task<ImageInfo> info() override {
    ImageInfo info = co_await Turnstile::info();
    info.actual_size.reset();
    co_return info;
  }

  void told(DebugEvent event) override;

  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;

 private:
  Task<> pass(RequestKind kind, Range range) override;
  const BlkdebugRule* expected(RequestKind kind, Range range) const noexcept;

  const BlkdebugOptions options_;
  std::list<BlkdebugRule> rules_;
  std::vector<const BlkdebugRule*> expected_;
  std::int64_t state_ = 1;
  bool changed_ = false;                         // since it was flushed
};

BlockLimits Blkdebug::limits() const noexcept {
  BlockLimits limits = Turnstile::limits();
  limits.request_align = std::max(limits.request_align, narrow(options_.align));
  limits.max_transfer = narrow(lower(limits.max_transfer, options_.max_transfer));
  limits.write_zeroes_align = std::max({limits.write_zeroes_align, limits.request_align, power_in(options_.opt_write_zero)});
  limits.discard_align = std::max({limits.discard_align, limits.request_align, power_in(options_.opt_discard)});
  limits.max_zeroes = lower(limits.max_zeroes, lower(options_.max_write_zero, options_.max_discard));
  return limits;
}

// The state is what it was until all rules were asked.
void Blkdebug::told(DebugEvent event) {
  std::vector<const BlkdebugRule*> errors;
  std::optional<std::int64_t> state;
  for (const BlkdebugRule& rule : rules_) {
    if (rule.event != event || (rule.state != 0 && rule.state != state_)) continue;
    if (!rule.new_state) errors.push_back(&rule);
    else if (!state) state = rule.new_state;
  }
  if (!errors.empty()) expected_ = std::move(errors);
  if (state) state_ = *state;
}

const BlkdebugRule* Blkdebug::expected(RequestKind kind, Range range) const noexcept {
  for (const BlkdebugRule* rule : expected_) {
    const BlkdebugError& error = rule->error;
    const bool where = !error.offset || (*error.offset >= range.offset && *error.offset < range.end());
    if (where && (error.kinds >> static_cast<unsigned>(kind) & 1)) return rule;
  }
  return nullptr;
}

Task<> Blkdebug::pass(RequestKind kind, Range range) {
  if (kind == RequestKind::flush && !changed_) co_return;
  if (kind == RequestKind::write || kind == RequestKind::write_zeroes || kind == RequestKind::discard) changed_ = true;
  const BlkdebugRule* const rule = expected(kind, range);
  if (!rule) {
    if (kind == RequestKind::flush) changed_ = false;
    co_return;
  }
  const BlkdebugError error = rule->error;
  if (error.once) {
    std::erase(expected_, rule);
    rules_.remove_if([rule](const BlkdebugRule& one) { return &one == rule; });
  }
  if (error.delay_ns != 0) co_await home().reactor().sleep(Duration(error.delay_ns));
  if (error.os_errno == 0) co_return;
  co_await Error::from_errno(error.os_errno, "node '" + file().node().name() + "': injected error: " + std::string(to_string(kind)));
}

Task<> Blkdebug::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  told(DebugEvent::pwritev);
  const Result<> written = co_await Turnstile::write(offset, from, flags).result();
  told(DebugEvent::pwritev_done);
  co_await unwrap(written);
}

Task<> Blkdebug::write_zeroes(Range range, WriteFlags flags) {
  told(DebugEvent::pwritev_zero);
  const Result<> written = co_await Turnstile::write_zeroes(range, flags).result();
  told(DebugEvent::pwritev_done);
  co_await unwrap(written);
}

Error cannot_meet(const char* option, std::uint64_t value) {
  return Error(Errc::invalid_argument, "Cannot meet constraints with " + std::string(option) + " " + std::to_string(value));
}

Result<> check(const BlkdebugOptions& options, std::uint64_t file_align) {
  constexpr std::uint64_t most = std::numeric_limits<std::int32_t>::max();
  const std::uint64_t align = std::max(options.align, file_align);
  const auto meets = [&](std::uint64_t value, std::uint64_t unit) { return value < most && value % unit == 0; };
  if (options.align >= most || (options.align & (options.align - 1)) != 0) return cannot_meet("align", options.align);
  if (!meets(options.max_transfer, align)) return cannot_meet("max-transfer", options.max_transfer);
  if (!meets(options.opt_write_zero, align)) return cannot_meet("opt-write-zero", options.opt_write_zero);
  if (!meets(options.max_write_zero, std::max(options.opt_write_zero, align))) return cannot_meet("max-write-zero", options.max_write_zero);
  if (!meets(options.opt_discard, align)) return cannot_meet("opt-discard", options.opt_discard);
  if (!meets(options.max_discard, std::max(options.opt_discard, align))) return cannot_meet("max-discard", options.max_discard);
  return {};
}

}  // namespace

Result<std::unique_ptr<BlockDriver>> open_blkdebug(BlockNode& file, BlkdebugOptions options) {
  if (auto ok = check(options, file.limits().request_align); !ok) return ok.error();
  if (file.read_only() && (options.takes & Permissions::write)) return Error(Errc::permission, "Block node is read-only", EROFS);
  auto edge = Edge::attach(file, Role::filtered, {}, "blkdebug");
  if (!edge) return edge.error();
  return std::unique_ptr<BlockDriver>(std::make_unique<Blkdebug>(file.reactor(), *std::move(edge), std::move(options)));
}

}  // namespace tidemark
