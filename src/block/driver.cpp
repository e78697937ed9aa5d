#include "block/driver.hpp"

#include "block/node.hpp"

namespace tidemark {

std::string_view BlockDriver::child_name(const Edge& child) const noexcept { return to_string(child.role()); }

// As QEMU's: a format owns its storage, whose content nobody else may change under it; what is
// below a backing edge must not change unless this node's own users do not mind.
Permissions BlockDriver::child_permissions(const Edge& child, Permissions node, bool writable) const {
  using P = Permissions;
  switch (child.role()) {
    case Role::file:
    case Role::data_file: {
      P p{static_cast<P::Set>(node.uses | P::consistent_read),
          static_cast<P::Set>((node.shares | P::write_unchanged) & ~(P::write | P::resize))};
      if (writable) p.uses |= P::write | P::resize;
      return p;
    }
    case Role::backing: {
      P p{static_cast<P::Set>(node.uses & P::consistent_read), P::consistent_read | P::write_unchanged};
      if (node.shares & P::write) p.shares |= P::write | P::resize;
      return p;
    }
    case Role::target: return {P::consistent_read | P::write, P::consistent_read | P::write_unchanged};
    case Role::filtered:
    case Role::root: break;
  }
  return node;
}

Task<> BlockDriver::write_back(PageCache after) {
  for (Edge* edge : edges())
    if (edge->role() != Role::backing && edge->role() != Role::target) co_await edge->write_back(after);
}

Task<> BlockDriver::open_anew() {
  for (Edge* edge : edges())
    if (edge->role() != Role::backing && edge->role() != Role::target) co_await edge->node().open_anew();
}

Task<std::optional<std::uint64_t>> BlockDriver::device_size() {
  for (Edge* edge : edges())
    if (is_filter() && edge->role() == Role::filtered) co_return co_await edge->node().driver().device_size();
  co_return std::nullopt;
}

namespace {
Task<> not_supported(const BlockDriver& driver, std::string_view what) {
  co_await Error(Errc::unsupported, std::string(driver.name()) + ": " + std::string(what) + " not supported");
}
}  // namespace

Task<> BlockDriver::write_zeroes(Range, WriteFlags) { return not_supported(*this, "write-zeroes is"); }
Task<> BlockDriver::discard(Range) { return not_supported(*this, "discard is"); }
Task<> BlockDriver::write_compressed(std::uint64_t, Buffers) {
  return not_supported(*this, "compressed writes are");
}
Task<> BlockDriver::truncate(std::uint64_t, Growth) { return not_supported(*this, "resizing is"); }
Task<> BlockDriver::write_backing_name(std::string, std::string) { return not_supported(*this, "a backing file is"); }

}  // namespace tidemark
