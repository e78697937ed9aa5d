#include "export/nbd/connection.hpp"

#include "io/visit.hpp"

namespace tidemark {
namespace {

Task<> nothing() { co_return; }

}  // namespace

Task<> NbdConnection::run() {
  (void)co_await serve().result();
  (void)co_await socket_.close().result();
}

Task<> NbdConnection::serve() {
  auto agreement = co_await shake_hands();
  if (!agreement) co_return;
  const std::shared_ptr<NbdExport> disk = agreement->disk;
  // Removed, or another disk by now, while we told the client about it.
  if (disk->shutting_down() || disk->edition() != agreement->edition) co_return;
  const Gate::Holder in_use = disk->enter();
  chosen_ = disk.get();
  co_await serve_requests(*std::move(agreement));
}

Task<> NbdConnection::serve_requests(NbdAgreement agreement) {
  Reactor& home = agreement.disk->home();
  const NbdPools::Lease pool(pools_, home);
  if (&home != &here_) away_ = &home;
  socket_.move_to(home);
  (void)co_await visit(here_, home, transmit(std::move(agreement), pool.buffers())).result();
  socket_.move_to(here_);
  served_ = true;
  // What was still on its way there has arrived before this, and is not left without us.
  co_await visit(here_, home, nothing());
}

Task<> NbdConnection::transmit(NbdAgreement agreement, BufferPool& pool) {
  NbdTransmission transmission(socket_, std::move(agreement), pool, stop_, drop_);
  co_await transmission.run();
}

void NbdConnection::finish() { ask(stop_, nullptr); }
void NbdConnection::drop() {
  dropped_ = true;
  ask(stop_, &drop_);
}

void NbdConnection::ask(CancelSource& first, CancelSource* second) {
  if (served_) return;
  const auto request = [&first, second] {
    first.request();
    if (second) second->request();
  };
  if (away_) away_->post_remote(request);
  else request();
}

Task<std::optional<NbdAgreement>> NbdConnection::shake_hands() {
  auto within_limit = [this](TaskGroup& group) -> Task<std::optional<NbdAgreement>> {
    if (handshake_max_ != Duration::zero()) group.spawn(expire(group.token()));
    NbdHandshake handshake(socket_, exports_, admission_, stop_.token());
    co_return co_await handshake.run();
  };
  co_return co_await with_group(here_, within_limit);
}

Task<> NbdConnection::expire(CancelToken token) {
  do co_await here_.sleep(handshake_max_, token);
  while (admission_.waiting());
  drop();
}

}  // namespace tidemark
