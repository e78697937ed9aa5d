#include "app/cli/quiesce.hpp"

#include <fmt/format.h>

#include "app/cli/context.hpp"
#include "io/posix/child.hpp"
#include "task/group.hpp"

namespace tidemark::cli {
namespace {

// $1: the command, $2: the disks.  Whoever is told, or sees the end of what it was to be told by, thaws.
// What a command leaves behind when it has ended does not keep the pipe, which would hold up the thaw.
constexpr const char* freezing = "export TIDEMARK_DISKS=\"$2\"; { eval \"$1 freeze\"; } 9>&-; exit $?";
constexpr const char* thawing = "trap '' HUP INT TERM; read -r told; trap - HUP INT TERM; export TIDEMARK_DISKS=\"$2\"; eval \"$1 thaw\"";

class Quiesce {
 public:
  Quiesce(const Context& context, QuiesceOptions options, std::string disks)
      : context_(context), options_(std::move(options)), disks_(std::move(disks)) {}

  Task<> run(std::function<Task<>()> work) {
    Pipe pipe = co_await unwrap(Pipe::create());
    Child::Options for_thaw;
    for_thaw.input = pipe.reading();
    Child thaw = co_await unwrap(Child::start(words(thawing), for_thaw));
    pipe.close_reading();
    Result<> done = co_await freeze(pipe).result();
    if (done) done = co_await work_in_time(pipe, std::move(work)).result();
    pipe.tell();
    const auto thawed = co_await end_of_thaw(thaw).result();
    if (!done && !thawed)
      co_await Error(done.error().code(), fmt::format("{}; and {}", done.error().message(), thawed.error().message()));
    co_await unwrap(done);
    if (!thawed) co_await Error(thawed.error().code(), "done, but " + thawed.error().message());
    if (late_)
      co_await Error(Errc::timed_out, fmt::format("done, but after {} s guests were thawed: it is not quiesced", options_.timeout));
  }

 private:
  std::vector<std::string> words(const char* script) const { return {"sh", "-c", script, "sh", options_.command, disks_}; }
  Duration timeout() const { return std::chrono::seconds(options_.timeout); }

  // Its status, or nothing when it has not ended in time.
  Task<std::optional<int>> status_of(Child& child, CancelToken interrupted) {
    CancelSource enough;
    std::optional<int> status;
    auto body = [&](TaskGroup& group) -> Task<> {
      group.spawn(after_timeout(enough, group.token()));
      group.spawn(forward(interrupted, enough, group.token()));
      const auto ended = co_await child.wait(context_.reactor, enough.token()).result();
      if (ended) status = *ended;
      else if (ended.error().code() != Errc::cancelled) co_await ended.error();
    };
    co_await with_group(context_.reactor, body);
    co_return status;
  }

  Task<> after_timeout(CancelSource& enough, CancelToken done) {
    const auto slept = co_await context_.reactor.sleep(timeout(), done).result();
    if (slept) enough.request();
  }

  Task<> forward(CancelToken interrupted, CancelSource& enough, CancelToken done) {
    while (!done.requested() && !interrupted.requested()) (void)co_await context_.reactor.sleep(poll_interval, done).result();
    if (interrupted.requested()) enough.request();
  }

  // What it has begun when it is stopped is undone by the thaw.
  Task<> freeze(const Pipe& pipe) {
    Child::Options kept;
    kept.kept = pipe.writing();
    Child child = co_await unwrap(Child::start(words(freezing), kept));
    const auto status = co_await status_of(child, context_.interrupted);
    if (status == 0) co_return;
    if (!status) {
      child.kill();
      (void)co_await child.wait(context_.reactor).result();
    }
    if (context_.interrupted.requested()) co_await Error(Errc::cancelled, "interrupted; nothing was changed");
    if (!status)
      co_await Error(Errc::timed_out, fmt::format("'{} freeze' has not ended after {} s; nothing was changed", options_.command,
                                                  options_.timeout));
    co_await Error(Errc::io, fmt::format("'{} freeze' ended with status {}; nothing was changed", options_.command, *status));
  }

  Task<> work_in_time(Pipe& pipe, std::function<Task<>()> work) {
    auto body = [&](TaskGroup& group) -> Task<> {
      group.spawn(thaw_after_timeout(pipe, group.token()));
      co_await work();
    };
    co_await with_group(context_.reactor, body);
  }

  Task<> thaw_after_timeout(Pipe& pipe, CancelToken done) {
    const auto slept = co_await context_.reactor.sleep(timeout(), done).result();
    if (!slept) co_return;
    late_ = true;
    pipe.tell();
  }

  Task<> end_of_thaw(Child& thaw) {
    const CancelToken never;
    const auto status = co_await status_of(thaw, never);
    if (status == 0) co_return;
    std::string how = fmt::format("has not ended after {} s", options_.timeout);
    if (status) how = fmt::format("ended with status {}", *status);
    co_await Error(Errc::io, fmt::format("'{} thaw' {}: guests may be frozen", options_.command, how));
  }

  static constexpr Duration poll_interval = std::chrono::milliseconds(20);
  const Context& context_;
  const QuiesceOptions options_;
  const std::string disks_;
  bool late_ = false;
};

}  // namespace

Task<> while_quiesced(const Context& context, QuiesceOptions options, std::string disks, std::function<Task<>()> work) {
  if (options.command.empty()) co_return co_await work();
  Quiesce quiesce(context, std::move(options), std::move(disks));
  co_await quiesce.run(std::move(work));
}

}  // namespace tidemark::cli
