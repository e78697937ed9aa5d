#include "control/graph/node_events.hpp"

#include "schema/bitmap.hpp"
#include "schema/graph.hpp"
#include "schema/stats.hpp"

namespace tidemark {
namespace {

TrackingListener send_tracking(Reactor& main, EventSink& events) {
  return [&main, &events](const std::string& node, const TrackingReport& report) {
    schema::TrackingStoreStatusEvent event;
    event.node = node;
    event.message = report.message;
    switch (report.kind) {
      case TrackingReport::Kind::failed: event.status = schema::TrackingStoreStatus::failed; break;
      case TrackingReport::Kind::recovered: event.status = schema::TrackingStoreStatus::recovered; break;
      case TrackingReport::Kind::inconsistent: event.status = schema::TrackingStoreStatus::inconsistent; break;
      case TrackingReport::Kind::damaged: event.status = schema::TrackingStoreStatus::damaged; break;
    }
    main.post_remote([&events, event] { events.send(event); });
  };
}

}  // namespace

Graph::Listeners send_node_events(Reactor& main, EventSink& events) {
  Graph::Listeners listeners;
  listeners.tracking = send_tracking(main, events);
  listeners.threshold = [&main, &events](const std::string& node, std::uint64_t threshold, std::uint64_t exceeded) {
    schema::BlockWriteThresholdEvent event;
    event.node_name = node;
    event.write_threshold = threshold;
    event.amount_exceeded = exceeded;
    main.post_remote([&events, event] { events.send(event); });
  };
  listeners.corruption = [&main, &events](const std::string& node, const ImageCorruption& corruption) {
    schema::BlockImageCorruptedEvent event;
    event.node_name = node;
    event.msg = corruption.message;
    event.fatal = corruption.fatal;
    main.post_remote([&events, event] { events.send(event); });
  };
  return listeners;
}

}  // namespace tidemark
