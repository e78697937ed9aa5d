#include "io/sim/network.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace tidemark {

// One direction of a connection.
class SimNetwork::Pipe {
 public:
  struct Piece {
    Instant arrives;
    std::vector<std::byte> bytes;
    std::size_t taken = 0;
  };
  std::deque<Piece> pieces;
  std::uint64_t held = 0;                       // bytes in pieces
  bool ended = false;                           // the writer sends no more
  bool unread = false;                          // the reader takes no more
  bool broken = false;
  Instant last_arrival{0};                      // of bytes and of the end
  std::vector<std::uint64_t> readers, writers;  // operations that wait

  std::uint64_t arrived(Instant now) const {
    std::uint64_t bytes = 0;
    for (const Piece& piece : pieces)
      if (piece.arrives <= now) bytes += piece.bytes.size() - piece.taken;
    return bytes;
  }
  void take(MutableBytes into) {
    held -= into.size();
    while (!into.empty()) {
      Piece& piece = pieces.front();
      const std::size_t n = std::min(into.size(), piece.bytes.size() - piece.taken);
      std::memcpy(into.data(), piece.bytes.data() + piece.taken, n);
      into = into.subspan(n);
      if ((piece.taken += n) == piece.bytes.size()) pieces.pop_front();
    }
  }
};

class SimConnection {
 public:
  SimNetwork::Pipe pipes[2];                    // side s reads pipes[s] and writes pipes[1 - s]
};

void SimNetwork::wake(std::vector<std::uint64_t>& waiting) {
  for (const std::uint64_t id : std::exchange(waiting, {})) retry_(id);
}

void SimNetwork::wake_later(const std::shared_ptr<SimConnection>& connection, int pipe, Instant when) {
  clock_.at(when, [this, connection, pipe] { wake(connection->pipes[pipe].readers); });
}

std::int64_t SimNetwork::recv(SimSocket& socket, const Buffers& into, const SimStart& start,
                              std::uint64_t id) {
  if (start.fail_errno) break_off(*socket.connection);
  Pipe& pipe = socket.connection->pipes[socket.side];
  if (pipe.broken) return start.fail_errno ? -start.fail_errno : -ECONNRESET;
  if (into.empty() || pipe.unread) return 0;
  std::uint64_t length = std::min<std::uint64_t>(pipe.arrived(clock_.now()), into.size());
  if (length == 0) {
    if (pipe.ended && pipe.held == 0 && pipe.last_arrival <= clock_.now()) return 0;
    if (id) pipe.readers.push_back(id);
    return sim_would_block;
  }
  if (start.cut) length = 1 + prng_.below(length);
  into.first(length).for_each([&](MutableBytes piece) { pipe.take(piece); });
  clock_.at(clock_.now() + latency(), [this, connection = socket.connection, side = socket.side] {
    wake(connection->pipes[side].writers);
  });
  return static_cast<std::int64_t>(length);
}

std::int64_t SimNetwork::send(SimSocket& socket, const Buffers& from, const SimStart& start,
                              std::uint64_t id) {
  if (start.fail_errno) break_off(*socket.connection);
  Pipe& pipe = socket.connection->pipes[1 - socket.side];
  if (pipe.broken) return start.fail_errno ? -start.fail_errno : -ECONNRESET;
  if (pipe.ended || pipe.unread) return -EPIPE;
  if (from.empty()) return 0;
  std::uint64_t length = options_.socket_buffer - std::min(pipe.held, options_.socket_buffer);
  length = std::min<std::uint64_t>(length, from.size());
  if (length == 0) {
    if (id) pipe.writers.push_back(id);
    return sim_would_block;
  }
  if (start.cut) length = 1 + prng_.below(length);
  Pipe::Piece piece{std::max(pipe.last_arrival, clock_.now() + latency()), {}};
  piece.bytes.resize(length);
  from.first(length).copy_to(piece.bytes);
  pipe.held += length;
  pipe.last_arrival = piece.arrives;
  pipe.pieces.push_back(std::move(piece));
  wake_later(socket.connection, 1 - socket.side, pipe.last_arrival);
  return static_cast<std::int64_t>(length);
}

void SimNetwork::break_off(SimConnection& connection) {
  for (Pipe& pipe : connection.pipes) {
    pipe.broken = true;
    pipe.pieces.clear();
    pipe.held = 0;
  }
  for (Pipe& pipe : connection.pipes) {
    wake(pipe.readers);
    wake(pipe.writers);
  }
}

std::int64_t SimNetwork::shutdown(SimSocket& socket) {
  const std::shared_ptr<SimConnection> connection = socket.connection;
  Pipe& in = connection->pipes[socket.side];
  Pipe& out = connection->pipes[1 - socket.side];
  in.unread = true;
  in.pieces.clear();
  in.held = 0;
  if (!out.ended) {
    out.ended = true;
    out.last_arrival = std::max(out.last_arrival, clock_.now() + latency());
    wake_later(connection, 1 - socket.side, out.last_arrival);
  }
  for (auto* waiting : {&in.readers, &in.writers, &out.writers}) wake(*waiting);
  return 0;
}

void SimNetwork::close(SimSocket& socket) {
  Pipe& in = socket.connection->pipes[socket.side];
  if (in.held != 0) break_off(*socket.connection);
  else shutdown(socket);
}

namespace {

constexpr std::size_t backlog_max = 128;

bool is_unix(const SocketAddress& address) {
  return address.kind == SocketAddress::Kind::unix_path;
}

std::string key_of(const std::string& host, const std::string& port) {
  return (host == "localhost" ? "127.0.0.1" : host) + " " + port;
}
std::string key_of(std::uint64_t inode) { return "inode " + std::to_string(inode); }

// What Linux says of a unix socket's path before it looks at it.
std::int64_t refused_path(const std::string& path) {
  constexpr std::size_t sun_path_size = 108;
  return path.empty() ? -EINVAL : path.size() >= sun_path_size ? -ENAMETOOLONG : 0;
}

bool parse_port(const std::string& text, unsigned& port) {
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), port);
  return bad == std::errc() && end == text.data() + text.size() && port < 65536;
}

}  // namespace

std::int64_t SimNetwork::listen(SocketAddress& address, std::shared_ptr<SimListener>& listener) {
  std::string key;
  if (is_unix(address)) {
    if (const std::int64_t bad = refused_path(address.path); bad < 0) return bad;
    std::uint64_t inode = 0;
    const auto in_use = [&](std::uint64_t at) { return listeners_.contains(key_of(at)); };
    if (const std::int64_t bad = disk_.bind(address.path, in_use, inode); bad < 0) return bad;
    key = key_of(inode);
  } else {
    unsigned port = 0;
    if (!parse_port(address.port, port)) return -EINVAL;
    if (address.host.empty()) address.host = "::";
    if (port == 0) address.port = std::to_string(++last_port_);
    key = key_of(address.host, address.port);
    if (listeners_.contains(key)) return -EADDRINUSE;
  }
  listener = std::make_shared<SimListener>();
  listener->key = key;
  listeners_[key] = listener;
  return 0;
}

std::shared_ptr<SimListener> SimNetwork::find(const SocketAddress& address,
                                              std::int64_t& error) const {
  std::vector<std::string> keys;
  if (is_unix(address)) {
    if (error = refused_path(address.path); error < 0) return nullptr;
    const SimNames::Place place = disk_.locate(address.path);
    error = place.error ? place.error : place.node ? -ECONNREFUSED : -ENOENT;
    if (place.node) keys.push_back(key_of(place.node->inode));
  } else {
    error = -ECONNREFUSED;
    for (const std::string& host : {address.host, std::string("::"), std::string("0.0.0.0")})
      keys.push_back(key_of(host, address.port));
  }
  for (const std::string& key : keys)
    if (const auto it = listeners_.find(key); it != listeners_.end()) return it->second;
  return nullptr;
}

std::int64_t SimNetwork::connect(const SocketAddress& address, std::shared_ptr<SimSocket>& socket) {
  std::int64_t error = 0;
  const std::shared_ptr<SimListener> listener = find(address, error);
  if (!listener) return error;
  if (listener->backlog.size() >= backlog_max) return -EAGAIN;
  const auto connection = std::make_shared<SimConnection>();
  socket = std::make_shared<SimSocket>(SimSocket{connection, 0});
  listener->backlog.push_back(std::make_shared<SimSocket>(SimSocket{connection, 1}));
  wake(listener->waiting);
  return 0;
}

std::int64_t SimNetwork::accept(SimListener& listener, std::uint64_t id,
                                std::shared_ptr<SimSocket>& socket) {
  if (listener.closed) return -ECANCELED;
  if (listener.backlog.empty()) {
    if (id) listener.waiting.push_back(id);
    return sim_would_block;
  }
  socket = std::move(listener.backlog.front());
  listener.backlog.pop_front();
  return 0;
}

void SimNetwork::close(SimListener& listener) {
  listener.closed = true;
  listeners_.erase(listener.key);
  for (const auto& socket : listener.backlog) break_off(*socket->connection);
  listener.backlog.clear();
  wake(listener.waiting);
}

void SimNetwork::crash() {
  for (const auto& [key, listener] : std::exchange(listeners_, {})) {
    listener->closed = true;
    listener->backlog.clear();
  }
}

}  // namespace tidemark
