// What the stores of persistent bitmaps report, as events.
#pragma once

#include "block/node_tracking.hpp"
#include "control/event_sink.hpp"

namespace tidemark {

// For the graphs of all threads; the events are sent on the main one.  `events` outlives its last turn.
TrackingListener send_tracking_events(Reactor& main, EventSink& events);

}  // namespace tidemark
