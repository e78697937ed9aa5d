#include "app/daemon/ending.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace tidemark {
namespace {

constexpr Duration interval = std::chrono::milliseconds(250);

std::uint64_t operations_of(const BlockStats& stats) {
  return stats.read.operations + stats.write.operations + stats.write_zeroes.operations + stats.discard.operations + stats.flush.operations;
}

bool is_lowest_busy(const BlockNode& node) {
  const auto edges = node.driver().edges();
  const auto busy = [](const Edge* edge) { return edge->node().in_flight() != 0; };
  return node.in_flight() != 0 && std::none_of(edges.begin(), edges.end(), busy);
}

Task<Ending::Sight> look_at(const Graph& graph) {
  Ending::Sight sight;
  for (const auto& node : graph.nodes()) {
    ++sight.nodes;
    sight.operations += operations_of(node->stats());
    if (is_lowest_busy(*node)) sight.busy.push_back(node->name());
  }
  for (const auto& node : graph.nodes())
    if (sight.busy.empty() && node->closing()) sight.busy.push_back(node->name());
  co_return sight;
}

}  // namespace

Task<> Ending::run(CommandLock& lock, Duration patience) {
  group_.spawn(watch(homes_.main()));
  group_.spawn(end_all(lock));
  bool ended = co_await ended_in_time(patience);
  if (!ended) {
    group_.spawn(commands_.close_unused());
    ended = co_await ended_in_time(patience);
  }
  if (ended) co_return co_await unwrap(outcome_);
  hangs_ = true;
  co_await Error(Errc::timed_out, fmt::format("nothing has moved for {} s: {}; ended as if killed: what was not flushed there may be lost, "
                                              "persistent bitmaps are in the tracking store",
                                              patience / std::chrono::seconds(1), left()));
}

Task<> Ending::end_all(CommandLock& lock) {
  outcome_ = co_await commands_.end(lock).result();
  ended_.request();
}

// A command may end an iothread.
void Ending::watch_threads() {
  if (!commands_.commands_over() || std::exchange(watches_threads_, true)) return;
  for (Place* place : homes_.all())
    if (place != &homes_.main()) group_.spawn(watch(*place));
}

// On its own: the thread may hang, too.
Task<> Ending::watch(Place& place) {
  for (;;) {
    Sight sight = co_await homes_.at(place, look_at(place.graph));
    seen_[&place] = std::move(sight);
    const Result<> slept = co_await homes_.main().reactor.sleep(interval, ended_.token()).result();
    if (!slept) co_return;
  }
}

Task<bool> Ending::ended_in_time(Duration patience) {
  Reactor& main = homes_.main().reactor;
  Progress last = progress();
  for (Instant since = main.now(); main.now() - since < patience;) {
    const Result<> slept = co_await main.sleep(interval, ended_.token()).result();
    if (!slept) co_return true;
    watch_threads();
    if (Progress now = progress(); now != last) {
      last = std::move(now);
      since = main.now();
    }
  }
  co_return false;
}

Ending::Progress Ending::progress() const { return {jobs_.jobs().size(), commands_.exports.ids().size(), seen_}; }

std::string Ending::left() const {
  std::vector<std::string> left;
  for (const auto& [place, sight] : seen_)
    for (const std::string& name : sight.busy) left.push_back(fmt::format("node '{}'", name));
  for (const std::string& id : commands_.exports.ids()) left.push_back(fmt::format("export '{}'", id));
  for (const auto& job : jobs_.jobs()) left.push_back(fmt::format("job '{}'", job->id()));
  if (!commands_.commands_over()) left.push_back("a command");
  std::string text;
  for (const std::string& one : left) text += (text.empty() ? "" : ", ") + one;
  return text;
}

}  // namespace tidemark
