// QmpSession: one client's conversation, from the greeting to its end.
//
// Commands run one after the other, in the order they came, and each is answered before the next
// begins; those of several sessions take turns, but for a few that need none (`quit` among them).
// Answers and events go through one queue, in the order they were made, which a task of its own sends: a
// client that does not read holds up nobody.  Its next command waits until it has read its answers, however
// long these are; when events pile up beyond a bound it is disconnected.
//
// When the client ends its stream, or end() is called, the command that runs is still carried out
// and what is queued is sent, for a limited time.  One thread: the reactor's of the socket.
#pragma once

#include "control/qmp/command.hpp"
#include "control/qmp/command_lock.hpp"
#include "control/qmp/qmp_message.hpp"
#include "io/socket.hpp"
#include "task/group.hpp"

namespace tidemark {

struct QmpOptions {
  schema::VersionInfo version;
  bool pretty = false;                          // answers over several lines
  JsonLimits limits;                            // of one request
  std::size_t unread_pause = 1024 * 1024;       // bytes queued: no more commands are taken
  std::size_t events_max = 16 * 1024 * 1024;    // bytes of unread events: the client is disconnected
  Duration farewell = std::chrono::seconds(5);  // for what is queued at the end
};

class QmpSession {
 public:
  // All outlive the session.
  QmpSession(Socket socket, const CommandTable& commands, CommandLock& lock, const QmpOptions& options);
  QmpSession(const QmpSession&) = delete;

  // The conversation; ends well however it ends, with the socket closed.
  Task<> run();
  // An event as text; dropped before the client has negotiated.
  void send_event(std::string_view line);
  // Takes no more commands; events go on until end().
  void stop() noexcept;
  void end() noexcept;
  bool pretty() const noexcept { return options_.pretty; }

 private:
  Task<> converse(TaskGroup& group);
  Task<> read_all();
  Task<> take(Result<Json> message);
  Task<Json> execute(QmpRequest& request);
  Result<Json> negotiate(const Json& arguments);
  Task<> write_all();
  Task<> write_batches();
  Task<> give_up_later();
  void send(const Json& message);
  std::size_t unread() const noexcept { return queue_.size() + on_its_way_; }

  Socket socket_;
  Reactor& reactor_;
  const CommandTable& commands_;
  CommandLock& lock_;
  const QmpOptions& options_;
  JsonStream stream_;
  bool negotiated_ = false;
  std::string queue_;           // not handed to the socket yet
  std::size_t on_its_way_ = 0;  // bytes that the socket is sending
  std::size_t events_queued_ = 0, events_on_their_way_ = 0;     // of these, events
  bool stopped_ = false;        // and not ended yet
  bool read_to_end_ = false;
  bool written_ = false;  // the writer is done
  Event changed_;         // something was queued, or sent, or ended
  CancelSource reading_, writing_, waiting_;
};

}  // namespace tidemark
