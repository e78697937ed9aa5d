#include "control/commands/housekeeping.hpp"

#include "control/nodes/auto_read_only.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

constexpr Duration interval = std::chrono::seconds(5);

Task<> clean_caches(Graph& graph) {
  for (const auto& node : graph.nodes())
    if (auto* image = dynamic_cast<Qcow2Driver*>(&node->driver())) image->clean_caches();
  co_return;
}

}  // namespace

Task<> keep_house(Homes& homes, CommandLock& lock, CancelToken token) {
  for (;;) {
    const Result<> woken = co_await homes.main().reactor.sleep(interval, token).result();
    if (!woken) co_return;
    const auto turn = co_await lock.enter().result();
    if (!turn) co_return;
    for (Place* place : homes.all()) {
      co_await homes.at(*place, clean_caches(place->graph));
      co_await homes.at(*place, end_unused_writing(place->graph));
    }
    co_await lock.end();
  }
}

}  // namespace tidemark
