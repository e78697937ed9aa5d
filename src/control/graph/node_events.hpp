// What becomes of nodes by themselves, as events: of the stores of their persistent bitmaps, of images that are corrupt, and of
// writes beyond a threshold.
//
// For the graphs of all threads; the events are sent on the main one.  `events` outlives its last turn.
#pragma once

#include "block/graph.hpp"
#include "control/qmp/event_sink.hpp"

namespace tidemark {

Graph::Listeners send_node_events(Reactor& main, EventSink& events);

}  // namespace tidemark
