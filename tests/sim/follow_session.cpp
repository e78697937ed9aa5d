#include "tests/sim/follow_session.hpp"

#include "block/status.hpp"
#include "task/group.hpp"

namespace tidemark::sim {

FollowSession::FollowSession(SimProcess& process, FollowKnown& known, Rule broken, std::uint64_t seed, Trace trace)
    : process_(process),
      world_(process.backend().world()),
      known_(known),
      workings_{broken, 16 * KiB, 192 * KiB},
      random_(seed),
      trace_(std::move(trace)) {}

Task<> FollowSession::with_daemon(std::function<Task<>()> body, bool opens) {
  Result<> done, ended;
  const auto life = [&](TaskGroup& group) -> Task<> {
    const TrackingListener nobody = [](const std::string&, const TrackingReport&) {};
    SimDaemon daemon(process_.reactor(), group, workings_, *this, nobody);
    daemon_ = &daemon;
    if (opens) done = co_await open_disk().result();
    if (done) done = co_await body().result();
    guests_.clear();
    files_.clear();
    ended = co_await daemon.end().result();
    daemon_ = nullptr;
  };
  co_await with_group(process_.reactor(), life);
  co_await unwrap(done);
  co_await unwrap(ended);
}

Task<> FollowSession::open_disk() {
  co_await add_node(known_.disk, true);
  BlockNode* disk = co_await unwrap(daemon_->graph().lookup(node_of(known_.disk)));
  for (BlockNode* at = disk; at; at = at->backing()) files_[at->name()] = (co_await at->driver().info()).filename;
  const Permissions all{Permissions::consistent_read | Permissions::write, Permissions::all};
  for (std::size_t guest = 0; guest < guests_max; ++guest)
    guests_.push_back(co_await unwrap(Edge::attach(*disk, Role::root, all, "a guest")));
}

Task<> FollowSession::make_and_run(FollowScript script) {
  const auto make = [&]() -> Task<> {
    std::string path = known_.disk, format = known_.formats.at(path);
    co_await make_image(std::move(path), std::move(format), "");
  };
  co_await with_daemon(make, false);
  co_await run(std::move(script));
}

Task<> FollowSession::run(FollowScript script) {
  FollowScript rest;
  for (FollowStep& step : script) {
    if (step.what == FollowStep::What::restart) {
      FollowScript until = std::exchange(rest, FollowScript());
      co_await live(std::move(until));
      ++known_.step;
    } else {
      rest.push_back(std::move(step));
    }
  }
  co_await live(std::move(rest));
}

Task<> FollowSession::live(FollowScript script) {
  const auto body = [&]() -> Task<> { co_await carry_out(script); };
  co_await with_daemon(body);
  known_.content.all_durable();
}

Task<> FollowSession::open_and_close() {
  const auto nothing = []() -> Task<> { co_return; };
  co_await with_daemon(nothing);
}

// While guests write, but for what is about one moment.
Task<> FollowSession::carry_out(const FollowScript& script) {
  over_ = false;
  const auto body = [&](TaskGroup& group) -> Task<> {
    for (std::size_t guest = 0; guest < guests_max; ++guest) group.spawn(go_on_writing(guest));
    Result<> done;
    for (const FollowStep& step : script) {
      if (done) done = co_await perform(step).result();
      if (!done) break;
      where_now();
      ++known_.step;
    }
    over_ = true;
    co_await group.join();
    co_await unwrap(done);
  };
  co_await with_group(process_.reactor(), body);
}

Task<> FollowSession::go_on_writing(std::size_t guest) {
  for (int count = 0; !over_; ++count) {
    co_await process_.reactor().sleep(Duration(random_.below(400'000)));
    if (quiet_ || over_) continue;
    ++writing_;
    Task<> request = count % 4 == 3 ? flush(guest) : write(guest);
    const Result<> done = co_await std::move(request).result();
    --writing_;
    co_await unwrap(done);
  }
}

Task<> FollowSession::flush(std::size_t guest) {
  const auto before = known_.content.before_flush();
  co_await guests_[guest]->flush();
  known_.content.flushed(before);
  where_now();
}

// Each guest writes to a part of its own.
Task<> FollowSession::write(std::size_t guest) {
  constexpr std::uint64_t part = FollowKnown::disk_size / guests_max, sector = SectorModel::sector;
  const std::uint64_t at = guest * part + random_.below(part / sector - 16) * sector;
  const Range range{at, (1 + random_.below(16)) * sector};
  const bool zeroes = random_.chance(1, 6);
  const SectorModel::Stamp stamp = zeroes ? 0 : known_.content.next_stamp();
  known_.content.begin(range, stamp);
  std::vector<std::byte> data(range.length);
  SectorModel::fill(data, stamp);
  if (zeroes) co_await guests_[guest]->write_zeroes(range);
  else co_await guests_[guest]->write(range.offset, Buffers(MutableBytes(data)));
  known_.content.end(range);
  where_now();
}

Task<FollowSession::Quiet> FollowSession::pause() {
  quiet_ = true;
  Quiet quiet(quiet_);
  while (writing_ != 0) co_await process_.reactor().sleep(Duration(20'000));
  co_return std::move(quiet);
}

Task<FollowKnown::Stamps> FollowSession::read(BlockNode& node) {
  const Permissions reading{Permissions::consistent_read, Permissions::all};
  const auto edge = co_await unwrap(Edge::attach(node, Role::root, reading, "a reader"));
  std::vector<std::byte> content(edge->size());
  const Buffers into{MutableBytes(content)};
  co_await edge->read(0, into);
  Stamps stamps;
  for (std::uint64_t at = 0; at < content.size(); at += SectorModel::sector)
    stamps.push_back(load_be<std::uint64_t>(content.data() + at));
  co_return std::move(stamps);
}

Task<Json> FollowSession::execute(std::string command, Json arguments) {
  const std::string asked = command + " " + to_text(arguments);
  if (trace_ && command != "query-jobs") trace_(asked);
  auto answer = co_await daemon_->execute(std::move(command), std::move(arguments)).result();
  if (!answer && trace_) trace_(asked + ": " + answer.error().message());
  if (!answer) co_await answer.error().with_context(asked);
  co_return *std::move(answer);
}

BlockNode& FollowSession::disk() const { return skip_filters(guests_.front()->node()); }

void FollowSession::where_now() {
  if (!guests_.empty()) known_.disk = files_.at(disk().name());
}

bool FollowSession::has_left() const { return !guests_.empty() && files_.at(disk().name()) != known_.disk; }

}  // namespace tidemark::sim
