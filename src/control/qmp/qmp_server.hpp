// QmpServer: all QMP sessions of the daemon, on any number of sockets, and the events they are
// sent.
//
// One thread: the reactor's that it is made with, which is also where events are sent from.
#pragma once

#include <vector>

#include "control/qmp/event_sink.hpp"
#include "control/qmp/qmp_session.hpp"

namespace tidemark {

class QmpServer final : public EventSink {
 public:
  // The table outlives the server.
  QmpServer(Reactor& reactor, const CommandTable& commands, QmpOptions options);
  QmpServer(const QmpServer&) = delete;
  ~QmpServer() { TM_ASSERT(sessions_.empty()); }

  // One client, to its end.
  Task<> serve(Socket socket, bool pretty = false);
  // Clients as they come, until the token is asked; then ends when end() was called or they all
  // have gone.  At most `sessions_max` at a time; more wait to be accepted.
  Task<> listen(Listener& listener, bool pretty, CancelToken token);
  // No session takes a command after the one that it runs; events are sent until end(), which ends them all.  Those that
  // come later are turned away.
  void stop() noexcept;
  void end() noexcept;

  using EventSink::send;
  void send(std::string_view name, Json data) override;

  std::size_t sessions() const noexcept { return sessions_.size(); }
  static constexpr std::size_t sessions_max = 64;

  CommandLock& command_lock() noexcept { return command_lock_; }

 private:
  Task<> accept_all(Listener& listener, bool pretty, CancelToken token, TaskGroup& group);

  Reactor& reactor_;
  const CommandTable& commands_;
  CommandLock command_lock_;
  QmpOptions options_;
  QmpOptions pretty_options_;
  std::vector<QmpSession*> sessions_;
  Event session_ended_;
  bool stopping_ = false;
};

// The QEMU whose commands the schema describes, and who speaks them.
schema::VersionInfo qmp_version(std::string_view program_version);

}  // namespace tidemark
