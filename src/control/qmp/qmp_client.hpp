// QmpClient: the other end of a QMP session, for the command line.  Talks to tidemarkd, to
// qemu-storage-daemon and to QEMU alike (docs/interop/qmp-spec.rst of QEMU).
//
// One command at a time: execute() is awaited before the next.  Events that come in between are kept
// in order for next_event().  Errors of the connection name the daemon.
#pragma once

#include <array>
#include <deque>
#include <string>

#include "base/json.hpp"
#include "io/socket.hpp"

namespace tidemark {

class QmpClient {
 public:
  // Connects, reads the greeting, negotiates: within greeting_timeout, since a monitor that serves one client at a
  // time lets others connect and says nothing to them.  `token` ends this, and commands that wait for their answer.
  static Task<QmpClient> connect(Reactor& reactor, SocketAddress address, CancelToken token = {});
  static constexpr Duration greeting_timeout = std::chrono::seconds(10);

  // From here on commands wait for their answers whatever is asked: for work that has to be undone.
  void see_through() noexcept { token_ = {}; }

  const Json& greeting() const noexcept { return greeting_; }

  // The command's "return"; an error reply is an Error with its "desc" as the message.
  Task<Json> execute(std::string command, Json arguments = Json::object());
  // The same for a whole command object, as typed by a person; the reply as it came.
  Task<Json> execute_raw(Json command);

  bool has_event() const noexcept { return !events_.empty(); }
  // The next event, waiting for it.
  Task<Json> next_event(CancelToken token = {});

  Task<> close() { return socket_.close(); }

 private:
  explicit QmpClient(std::string name) : name_(std::move(name)) {}
  Task<> open(Reactor& reactor, SocketAddress address, CancelToken token);
  Task<> greet(Reactor& reactor, SocketAddress address);
  Error at_daemon(const Error& error) const;         // of the connection
  Error wrong_answer(std::string_view what) const;
  Task<Json> receive(CancelToken token = {});      // the next message of any kind
  Task<Json> reply();

  static constexpr std::size_t events_max = 10000;   // older ones are dropped: nobody took them
  std::string name_;
  CancelToken token_;
  Socket socket_;
  JsonStream stream_;
  Json greeting_;
  std::deque<Json> events_;
};

}  // namespace tidemark
