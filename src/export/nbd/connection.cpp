#include "export/nbd/connection.hpp"

namespace tidemark {

Task<> NbdConnection::run() {
  (void)co_await serve().result();
  (void)co_await socket_.close().result();
}

Task<> NbdConnection::serve() {
  auto agreement = co_await shake_hands();
  if (!agreement) co_return;
  const std::shared_ptr<NbdExport> disk = agreement->disk;
  if (disk->shutting_down()) co_return;          // removed while we told the client about it
  const Gate::Holder in_use = disk->enter();
  chosen_ = disk.get();
  NbdTransmission transmission(socket_, *std::move(agreement), pool_, stop_, drop_);
  (void)co_await transmission.run().result();
}

Task<std::optional<NbdAgreement>> NbdConnection::shake_hands() {
  auto within_limit = [this](TaskGroup& group) -> Task<std::optional<NbdAgreement>> {
    if (handshake_max_ != Duration::zero()) group.spawn(expire(group.token()));
    NbdHandshake handshake(socket_, exports_, stop_.token());
    co_return co_await handshake.run();
  };
  co_return co_await with_group(socket_.reactor(), within_limit);
}

Task<> NbdConnection::expire(CancelToken token) {
  co_await socket_.reactor().sleep(handshake_max_, token);
  drop();
}

}  // namespace tidemark
