// DrainSet: nodes held drained together, on whatever threads they are, and their bitmaps where they are (Graph::bitmap_changes).
//
// While it holds them no request of a guest is under way on any of them, so all that is done to them
// meanwhile is done at one moment.  release() is awaited on every path.
#pragma once

#include "control/graph/homes.hpp"

namespace tidemark {

// On the main thread.
class DrainSet {
 public:
  explicit DrainSet(Homes& homes) : homes_(homes) {}
  DrainSet(const DrainSet&) = delete;
  ~DrainSet() { TM_ASSERT(held_.empty() && turns_.empty()); }

  // Nodes that do not exist are passed over: who uses them says so.  Errc::timed_out when one does not
  // come to rest.
  Task<> add(std::vector<std::string> nodes);
  Task<> release();

 private:
  struct Held {
    Place* place;
    Graph::DrainGuard guard;
  };
  struct Turn {
    Place* place;
    Mutex::Guard guard;
  };
  Task<> take_turn(Place& place);
  Homes& homes_;
  std::vector<Turn> turns_;
  std::vector<Held> held_;
};

}  // namespace tidemark
