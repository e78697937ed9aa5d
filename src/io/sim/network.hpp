// SimNetwork: byte streams between the processes of a simulated machine.
//
// A stream arrives complete and in order, late and in pieces.  A direction holds at most
// SimOptions::socket_buffer bytes.  When one end is shut down or closed, the other reads what was
// sent, then the end of the stream, and its sends fail with EPIPE; an end closed with bytes that it
// had not read, or a broken connection, gives ECONNRESET.
//
// An operation that would block answers sim_would_block and leaves its id where it is woken from:
// `retry` is then called with it once, later.
#pragma once

#include <deque>
#include <memory>

#include "io/sim/disk.hpp"

namespace tidemark {

inline constexpr std::int64_t sim_would_block = std::numeric_limits<std::int64_t>::min();

class SimConnection;

// One end of a connection.
struct SimSocket {
  std::shared_ptr<SimConnection> connection;
  int side = 0;
};

struct SimListener {
  std::string key;
  bool closed = false;
  std::deque<std::shared_ptr<SimSocket>> backlog;
  std::vector<std::uint64_t> waiting;           // accepts
};

class SimNetwork {
 public:
  SimNetwork(SimClock& clock, Prng& prng, const SimOptions& options, SimDisk& disk,
             std::function<void(std::uint64_t)> retry)
      : clock_(clock), prng_(prng), options_(options), disk_(disk), retry_(std::move(retry)) {}

  // `id` is the operation's, 0 for one that only tries.  Bytes, 0 or -errno, or sim_would_block.
  std::int64_t recv(SimSocket& socket, const Buffers& into, const SimStart& start, std::uint64_t id);
  std::int64_t send(SimSocket& socket, const Buffers& from, const SimStart& start, std::uint64_t id);
  std::int64_t shutdown(SimSocket& socket);
  void close(SimSocket& socket);

  // Resolves port 0 and a missing host in `address`.
  std::int64_t listen(SocketAddress& address, std::shared_ptr<SimListener>& listener);
  std::int64_t accept(SimListener& listener, std::uint64_t id, std::shared_ptr<SimSocket>& socket);
  std::int64_t connect(const SocketAddress& address, std::shared_ptr<SimSocket>& socket);
  void close(SimListener& listener);

  // The machine is gone: nobody listens any more.
  void crash();

 private:
  class Pipe;
  friend class SimConnection;
  void break_off(SimConnection& connection);
  void wake(std::vector<std::uint64_t>& waiting);
  void wake_later(const std::shared_ptr<SimConnection>& connection, int pipe, Instant when);
  std::shared_ptr<SimListener> find(const SocketAddress& address, std::int64_t& error) const;
  Duration latency() { return sim_latency(prng_, options_.net_latency_min, options_.net_latency_max); }

  SimClock& clock_;
  Prng& prng_;
  const SimOptions& options_;
  SimDisk& disk_;
  std::function<void(std::uint64_t)> retry_;
  std::map<std::string, std::shared_ptr<SimListener>> listeners_;
  unsigned last_port_ = 49151;
};

}  // namespace tidemark
