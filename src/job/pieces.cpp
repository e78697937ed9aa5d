#include "job/pieces.hpp"

#include "io/aligned.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t workers_max = 16;
constexpr std::uint64_t chunk_default = 1 * MiB;
constexpr std::uint64_t look_ahead = 1 * GiB;
constexpr Duration retry_delay = std::chrono::milliseconds(100);
constexpr std::uint64_t zeroes_max = 16 * MiB;   // at once: a guest may have to wait for it

}  // namespace

Pieces::Pieces(PieceSource& source, Edge& through, std::uint64_t size, std::uint64_t granule)
    : reactor_(through.node().reactor()),
      source_(source),
      pace_(reactor_, through),
      size_(size),
      granule_(granule),
      chunk_(std::max(granule, chunk_default)),
      left_bytes_(size),
      finding_(reactor_) {
  if (size != 0) left_.push_back({0, size});
}

void Pieces::again(Range piece) {
  left_.push_back(piece);
  left_bytes_ += piece.length;
}

// A tenth of a second's worth, so that a slow job still moves steadily.
std::uint64_t Pieces::chunk_for(std::uint64_t speed) const noexcept {
  if (speed == 0) return chunk_;
  return std::clamp(align_down(speed / 10, granule_), granule_, chunk_);
}

Task<std::optional<Pieces::Failed>> Pieces::run(JobContext& context) {
  failed_.reset();
  const auto body = [&](TaskGroup& group) -> Task<> {
    const std::uint64_t workers = std::min(workers_max, div_up(left_bytes_, chunk_for(context.speed())));
    for (std::uint64_t i = 0; i < workers; ++i) group.spawn(work(context));
    co_await group.join();
  };
  co_await with_group(reactor_, body);
  co_return failed_;
}

Task<> Pieces::finish(JobContext& context, OnError policy) {
  while (!done()) {
    const std::optional<Failed> failed = co_await run(context);
    if (failed) {
      const IoSide side = failed->why.reading ? IoSide::read : IoSide::write;
      const ErrorAction action = co_await context.failed(policy, side, failed->why.error);
      if (action == ErrorAction::report) co_await failed->why.error;
      if (action == ErrorAction::ignore) co_await context.sleep(retry_delay);
      again(failed->piece);
    }
    co_await context.checkpoint();
  }
}

Task<> Pieces::work(JobContext& context) {
  AlignedBuffer buffer(chunk_);
  while (goes_on(context)) {
    co_await one(context, buffer.bytes());
    co_await reactor_.yield();           // a guest's requests get their turn
  }
}

Task<> Pieces::one(JobContext& context, MutableBytes buffer) {
  const std::uint64_t speed = context.speed(), chunk = chunk_for(speed);
  if (speed != 0) co_await context.charge(chunk);
  std::uint64_t moved = 0;
  if (goes_on(context)) {
    const auto turn = co_await pace_.enter();
    const std::uint64_t most = std::min(chunk, std::max(pace_.piece_max(), granule_));
    const std::optional<Piece> piece = co_await next(context, most);
    if (piece) {
      if (piece->kind == PieceSource::Kind::data) moved = piece->range.length;
      PieceSource::Outcome failed = co_await source_.copy(piece->range, piece->kind, buffer);
      left_bytes_ -= piece->range.length;
      if (failed && !failed_) failed_.emplace(Failed{*std::move(failed), piece->range});
      else if (failed) again(piece->range);
    }
  }
  if (speed != 0) context.refund(chunk - std::min(chunk, moved));
  if (moved != 0) co_await source_.copied(moved);
}

// Passes what there is nothing to be done about.  Nobody else takes from the front meanwhile.
Task<std::optional<Pieces::Piece>> Pieces::next(JobContext& context, std::uint64_t most) {
  const Mutex::Guard guard = co_await finding_.lock();
  while (goes_on(context)) {
    const Range from = left_.front();
    const Range wanted{from.offset, std::min(from.length, look_ahead)};
    const Result<PieceSource::Found> found = co_await source_.look(wanted).result();
    const Piece piece{{from.offset, found ? length_of(*found, from, most) : std::min(from.length, granule_)},
                      found ? found->kind : PieceSource::Kind::nothing};
    left_.pop_front();
    if (piece.range.length < from.length) left_.push_front({piece.range.end(), from.end() - piece.range.end()});
    if (found && piece.kind != PieceSource::Kind::nothing) co_return piece;
    left_bytes_ -= piece.range.length;
    if (!found && !failed_) failed_.emplace(Failed{{found.error(), true}, piece.range});
    else if (!found) again(piece.range);
    co_await reactor_.yield();
  }
  co_return std::nullopt;
}

std::uint64_t Pieces::length_of(const PieceSource::Found& found, Range from, std::uint64_t most) const noexcept {
  std::uint64_t length = std::min(found.length, from.length);
  if (found.kind == PieceSource::Kind::nothing) return length;
  if (found.kind == PieceSource::Kind::zeroes) most = zeroes_max;
  if (length <= most) return length;
  const std::uint64_t end = align_down(from.offset + most, granule_);
  return end > from.offset ? end - from.offset : most;
}

}  // namespace tidemark
