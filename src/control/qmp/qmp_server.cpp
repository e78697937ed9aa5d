#include "control/qmp/qmp_server.hpp"

#include <algorithm>

namespace tidemark {
namespace {

constexpr Duration accept_retry = std::chrono::milliseconds(100);

}  // namespace

QmpServer::QmpServer(Reactor& reactor, const CommandTable& commands, QmpOptions options)
    : reactor_(reactor),
      commands_(commands),
      command_lock_(reactor),
      options_(std::move(options)),
      pretty_options_(options_),
      session_ended_(reactor) {
  pretty_options_.pretty = true;
}

Task<> QmpServer::serve(Socket socket, bool pretty) {
  if (stopping_) {
    (void)co_await socket.close().result();
    co_return;
  }
  QmpSession session(std::move(socket), commands_, command_lock_, pretty ? pretty_options_ : options_);
  sessions_.push_back(&session);
  (void)co_await session.run().result();
  sessions_.erase(std::find(sessions_.begin(), sessions_.end(), &session));
  session_ended_.notify_all();
}

Task<> QmpServer::listen(Listener& listener, bool pretty, CancelToken token) {
  auto body = [this, &listener, pretty, token](TaskGroup& group) -> Task<> {
    return accept_all(listener, pretty, token, group);
  };
  co_await with_group(reactor_, body);
}

Task<> QmpServer::accept_all(Listener& listener, bool pretty, CancelToken token, TaskGroup& group) {
  while (!token.requested()) {
    if (sessions_.size() >= sessions_max) {
      (void)co_await session_ended_.wait(token).result();
      continue;
    }
    Result<Socket> socket = co_await listener.accept(token).result();
    if (socket)
      group.spawn(serve(*std::move(socket), pretty));
    else
      (void)co_await reactor_.sleep(accept_retry, token).result();  // out of descriptors, say
  }
  co_await group.join();
}

void QmpServer::stop() noexcept {
  stopping_ = true;
  for (QmpSession* session : sessions_) session->stop();
}

void QmpServer::end() noexcept {
  for (QmpSession* session : sessions_) session->end();
}

void QmpServer::send(std::string_view name, Json data) {
  if (sessions_.empty()) return;
  const Json event = qmp_event(name, std::move(data), reactor_.backend().wall_clock_ns());
  const std::string line = to_text(event) + "\r\n";
  const std::string pretty_line = to_text(event, 4) + "\r\n";
  for (QmpSession* session : sessions_) session->send_event(session->pretty() ? pretty_line : line);
}

schema::VersionInfo qmp_version(std::string_view program_version) {
  schema::VersionInfo version;
  version.qemu.major = 11;
  version.package = "tidemark " + std::string(program_version);
  return version;
}

}  // namespace tidemark
