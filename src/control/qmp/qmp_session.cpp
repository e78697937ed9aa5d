#include "control/qmp/qmp_session.hpp"

#include <algorithm>
#include <array>

namespace tidemark {
namespace {

constexpr std::size_t read_size = 16 * 1024;
constexpr unsigned messages_a_turn = 32;  // before others get theirs

// About the daemon itself: they work while another command takes long.
bool takes_turns(std::string_view command) {
  static constexpr std::string_view at_once[] = {"quit", "query-version", "query-commands", "query-qmp-schema"};
  return std::find(std::begin(at_once), std::end(at_once), command) == std::end(at_once);
}

}  // namespace

QmpSession::QmpSession(Socket socket, const CommandTable& commands, CommandLock& lock, const QmpOptions& options)
    : socket_(std::move(socket)),
      reactor_(socket_.reactor()),
      commands_(commands),
      lock_(lock),
      options_(options),
      stream_(options.limits),
      changed_(reactor_) {}

Task<> QmpSession::run() {
  auto body = [this](TaskGroup& group) { return converse(group); };
  (void)co_await with_group(reactor_, body).result();
  (void)co_await socket_.close().result();
}

Task<> QmpSession::converse(TaskGroup& group) {
  send(qmp_greeting(options_.version));
  group.spawn(write_all());
  (void)co_await read_all().result();  // how a client ends is its own affair
  while (stopped_ && !written_) co_await changed_.wait();
  read_to_end_ = true;
  changed_.notify_all();
  group.spawn(give_up_later());
  while (!written_) co_await changed_.wait();
  waiting_.request();
  co_await group.join();
}

void QmpSession::stop() noexcept {
  stopped_ = true;
  reading_.request();
}

void QmpSession::end() noexcept {
  stopped_ = false;
  reading_.request();
  changed_.notify_all();
}

// Reading.

Task<> QmpSession::read_all() {
  std::array<std::byte, read_size> buffer;
  const MutableBytes bytes(buffer);
  for (;;) {
    const std::size_t n = co_await socket_.recv_some(bytes, reading_.token());
    if (n == 0) co_return;
    stream_.feed(as_text(bytes.first(n)));
    unsigned taken = 0;
    while (auto message = stream_.next()) {
      co_await take(*std::move(message));
      if (reading_.requested()) co_return;
      if (++taken % messages_a_turn == 0) co_await reactor_.yield();
    }
  }
}

// One message: carried out and answered.
Task<> QmpSession::take(Result<Json> message) {
  while (unread() > options_.unread_pause) co_await changed_.wait(reading_.token());
  QmpRequest request;
  Result<> good = message ? read_request(*std::move(message), request) : Result<>(message.error());
  if (!good) {
    send(qmp_error(good.error(), std::move(request.id)));
    co_return;
  }
  Result<Json> answer = co_await execute(request).result();
  if (answer)
    send(qmp_return(*std::move(answer), std::move(request.id)));
  else
    send(qmp_error(answer.error(), std::move(request.id)));
}

Task<Json> QmpSession::execute(QmpRequest& request) {
  if (request.command == "qmp_capabilities")
    co_return co_await unwrap(negotiate(request.arguments));
  if (!negotiated_)
    co_await Error(Errc::command_not_found,
                   "Expecting capabilities negotiation with 'qmp_capabilities'");
  const Command* command = commands_.find(request.command);
  if (!command)
    co_await Error(Errc::command_not_found,
                   "The command " + request.command.substr(0, schema::name_shown) + " has not been found");
  Task<Json> running = (*command)(std::move(request.arguments));
  if (!takes_turns(request.command)) co_return co_await std::move(running);
  co_return co_await lock_.run(std::move(running));
}

Result<Json> QmpSession::negotiate(const Json& arguments) {
  const auto wanted = schema::from_json<schema::QmpCapabilitiesArguments>(arguments);
  if (!wanted) return wanted.error();
  if (negotiated_)
    return Error(Errc::command_not_found,
                 "Capabilities negotiation is already complete, command ignored");
  if (wanted->enable && !wanted->enable->empty())
    return Error(
        Errc::unsupported,
        "Capability " + std::string(to_string(wanted->enable->front())) + " not available");
  negotiated_ = true;
  return Json::object();
}

// Writing.

void QmpSession::send(const Json& message) {
  queue_ += to_text(message, options_.pretty ? 4 : 0);
  queue_ += "\r\n";
  changed_.notify_all();
}

void QmpSession::send_event(std::string_view line) {
  if (!negotiated_ || written_ || writing_.requested()) return;
  if (events_queued_ + events_on_their_way_ + line.size() > options_.events_max) {
    reading_.request();
    writing_.request();
    return;
  }
  queue_ += line;
  events_queued_ += line.size();
  changed_.notify_all();
}

Task<> QmpSession::write_all() {
  (void)co_await write_batches().result();
  written_ = true;
  reading_.request();  // nobody hears the answers
  changed_.notify_all();
}

Task<> QmpSession::write_batches() {
  for (;;) {
    while (queue_.empty()) {
      if (read_to_end_) co_return;
      co_await changed_.wait(writing_.token());
    }
    const std::string batch = std::exchange(queue_, {});
    on_its_way_ = batch.size();
    events_on_their_way_ = std::exchange(events_queued_, 0);
    co_await socket_.send_all(Buffers::of_const(as_bytes(batch)), writing_.token());
    on_its_way_ = events_on_their_way_ = 0;
    changed_.notify_all();
  }
}

Task<> QmpSession::give_up_later() {
  Result<> waited = co_await reactor_.sleep(options_.farewell, waiting_.token()).result();
  if (waited) writing_.request();
}

}  // namespace tidemark
