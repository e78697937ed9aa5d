// The block driver over an NBD session: requests of the block layer as requests of the protocol.
#include <algorithm>
#include <cerrno>

#include "io/visit.hpp"
#include "storage/nbd_session.hpp"

namespace tidemark {
namespace {

using nbd::Command;
namespace export_flag = nbd::export_flag;
namespace command_flag = nbd::command_flag;

// Requests without data, with 32 bits of length, and of a size that no server finds too large.
constexpr std::uint64_t effect_max = 1 * GiB;
// Buffers are made as large as the server would like requests to be, up to this.
constexpr std::uint32_t preferred_max = 2 * MiB;

class NbdDriver final : public BlockDriver {
 public:
  NbdDriver(Reactor& reactor, NbdOptions options) : BlockDriver(reactor), session_(reactor, std::move(options)) {}
  const Reactor* bound_to() const noexcept override { return &session_.reactor(); }

  Task<> open() { return session_.open(); }

  std::string_view name() const noexcept override { return "nbd"; }
  std::uint64_t size() const noexcept override { return terms().info.size; }
  bool supports_fua() const noexcept override { return offers(export_flag::send_fua); }
  bool flush_at_close() const noexcept override { return false; }
  // What a connection had not made durable the next one gets.
  bool lost_by(const Error& failed) const noexcept override {
    return failed.code() != Errc::cancelled && failed.code() != Errc::disconnected && failed.code() != Errc::timed_out;
  }

  BlockLimits limits() const noexcept override {
    BlockLimits limits;
    limits.request_align = terms().unit();
    limits.write_zeroes_align = limits.discard_align = limits.request_align;
    limits.max_transfer = terms().data_max();
    limits.max_zeroes = effect_max;
    limits.opt_transfer = std::min(terms().sizes.preferred, std::max(preferred_max, terms().sizes.minimum));
    return limits;
  }

  Task<Extent> map(Range wanted) override {
    wanted.length = std::min(wanted.length, effect_max);
    Extent all{wanted, Mapping::data, wanted.offset};
    if (!terms().allocation) co_return all;
    NbdExchange exchange = about(Command::block_status, widened(wanted));
    exchange.flags = command_flag::req_one;
    std::optional<nbd::Extent> found;
    co_await perform(std::move(exchange), &found);
    const std::uint64_t skipped = wanted.offset - widened(wanted).offset;
    if (found->length <= skipped) co_return all;        // less than a block: taken for data
    Extent extent{wanted, Mapping::data, wanted.offset};
    extent.range.length = std::min(wanted.length, found->length - skipped);
    const bool hole = (found->flags & nbd::extent_flag::hole) != 0;
    if ((found->flags & nbd::extent_flag::zero) != 0)
      extent.mapping = hole ? Mapping::zero : Mapping::zero_allocated;
    if (extent.mapping == Mapping::zero) extent.host_offset.reset();
    co_return extent;
  }

  Task<> read(std::uint64_t offset, Buffers into) override {
    const Range stored = inside({offset, into.size()});
    into.from(stored.length).fill_zero();
    if (stored.empty()) co_return;
    NbdExchange exchange = about(Command::read, stored);
    exchange.data = into.first(stored.length);
    co_await perform(std::move(exchange));
  }

  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    const Range stored = inside({offset, from.size()});
    // The node completes the export's last sector with zeroes: other bytes behind its end are somebody's, and have no place.
    if (!from.from(stored.length).all_zero())
      co_await Error(Errc::no_space, session_.describe() + ": the export ends at " + std::to_string(size()) + ", within a sector", ENOSPC);
    if (stored.empty()) co_return;
    NbdExchange exchange = about(Command::write, stored);
    exchange.data = from.first(stored.length);
    if (has(flags, WriteFlags::fua)) exchange.flags = command_flag::fua;
    co_await perform(std::move(exchange));
  }

  Task<> write_zeroes(Range range, WriteFlags flags) override {
    const bool fast = has(flags, WriteFlags::no_fallback);
    if (!offers(export_flag::send_write_zeroes) || (fast && !offers(export_flag::send_fast_zero)))
      co_await Error(Errc::unsupported, session_.describe() + ": no efficient zeroes", ENOTSUP);
    const Range stored = inside(range);
    if (stored.empty()) co_return;
    NbdExchange exchange = about(Command::write_zeroes, stored);
    if (!has(flags, WriteFlags::may_unmap)) exchange.flags |= command_flag::no_hole;
    if (fast) exchange.flags |= command_flag::fast_zero;
    co_await perform(std::move(exchange));
  }

  Task<> discard(Range range) override {
    if (!offers(export_flag::send_trim))
      co_await Error(Errc::unsupported, session_.describe() + ": no discards", ENOTSUP);
    const Range stored = inside(range);
    if (stored.empty()) co_return;
    NbdExchange exchange = about(Command::trim, stored);
    co_await perform(std::move(exchange));
  }

  Task<> flush() override {
    if (!offers(export_flag::send_flush)) co_return;
    NbdExchange exchange = about(Command::flush, {});
    co_await perform(std::move(exchange));
  }

  Task<> truncate(std::uint64_t size, Growth) override {
    if (size != this->size()) co_await Error(Errc::unsupported, "Cannot resize NBD nodes", ENOTSUP);
  }

  Task<ImageInfo> info() override {
    ImageInfo info;
    info.filename = uri();
    info.format = name();
    info.virtual_size = align_up(size(), sector_size);
    co_return info;
  }

  // An inactive node is read-only, too.  One that was opened for reading need not be at an export that can be written.
  Task<> set_read_only(bool read_only) override {
    if (!read_only && offers(export_flag::read_only))
      co_await Error(Errc::permission, session_.describe() + ": request on denied for read-only export", EACCES);
    if (read_only) co_await visit(home().reactor(), session_.reactor(), session_.end_writing());
  }
  void writers_gone() noexcept override {
    Reactor& there = session_.reactor();
    if (&there == &home().reactor()) session_.writers_gone();
    else there.post_remote([this] { session_.writers_gone(); });      // before all that goes there from here on
  }

  Task<> cancel_in_flight() override {
    return visit(home().reactor(), session_.reactor(), session_.cancel_in_flight());
  }
  Task<> close() override { return visit(home().reactor(), session_.reactor(), session_.close()); }

 private:
  // The connection stays on the thread where it was made, wherever the node goes.
  Task<> perform(NbdExchange exchange, std::optional<nbd::Extent>* extent = nullptr) {
    Reactor& here = home().reactor();
    return visit(here, session_.reactor(), session_.perform(std::move(exchange), extent));
  }
  const NbdTerms& terms() const noexcept { return session_.terms(); }
  bool offers(std::uint16_t flag) const noexcept { return (terms().info.flags & flag) != 0; }
  // The part that the export has: its last sector may be odd.
  Range inside(Range range) const noexcept { return range.intersect({0, size()}); }
  Range widened(Range range) const noexcept { return inside(range.widened(terms().unit())); }
  static NbdExchange about(Command command, Range range) {
    NbdExchange exchange;
    exchange.command = command;
    exchange.range = range;
    return exchange;
  }
  std::string uri() const {
    const SocketAddress& server = session_.options().server;
    const std::string& name = session_.options().export_name;
    if (server.kind == SocketAddress::Kind::unix_path)
      return "nbd+unix:///" + name + "?socket=" + server.path;
    return "nbd://" + server.describe() + (name.empty() ? "" : "/" + name);
  }

  NbdSession session_;
};

}  // namespace

Task<std::unique_ptr<BlockDriver>> open_nbd(Reactor& reactor, NbdOptions options) {
  auto driver = std::make_unique<NbdDriver>(reactor, std::move(options));
  const Result<> opened = co_await driver->open().result();
  if (!opened) co_await opened.error();
  co_return driver;
}

}  // namespace tidemark
