// What becomes of nodes by themselves, as events: of the stores of their persistent bitmaps, and of images that are corrupt.
//
// For the graphs of all threads; the events are sent on the main one.  `events` outlives its last turn.
#pragma once

#include "block/graph.hpp"
#include "control/event_sink.hpp"

namespace tidemark {

TrackingListener send_tracking_events(Reactor& main, EventSink& events);
Graph::CorruptionListener send_corruption_events(Reactor& main, EventSink& events);

}  // namespace tidemark
