#include "tests/contract/io/contract.hpp"

#include "base/random.hpp"

namespace tidemark::contract {
namespace {

Task<> accept_into(Listener& listener, Socket& socket) { socket = co_await listener.accept(); }

Task<> connect_into(Reactor& reactor, SocketAddress address, Socket& socket) {
  socket = co_await Socket::connect(reactor, std::move(address));
}

}  // namespace

Task<> IoContract::connect_pair(SocketAddress address, Socket& near, Socket& far) {
  auto meet = [&](Listener& listener) -> Task<> {
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(accept_into(listener, far));
      group.spawn(connect_into(reactor, listener.address(), near));
      co_await group.join();
    };
    co_await with_group(reactor, both);
  };
  co_await with_listener(std::move(address), meet);
}

std::string pattern(std::size_t size, std::uint64_t seed) {
  Prng prng(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(prng());
  return text;
}

}  // namespace tidemark::contract
