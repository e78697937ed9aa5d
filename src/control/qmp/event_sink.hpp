// EventSink: where events go, on their way to every QMP client that has negotiated.
#pragma once

#include <string_view>

#include "schema/output.hpp"

namespace tidemark {

class EventSink {
 public:
  // Queued, in this order; never waits.
  virtual void send(std::string_view name, Json data) = 0;

  // An event of the schema.
  template <class Event>
  void send(const Event& event) {
    using schema::to_json;
    send(Event::event_name, to_json(event));
  }

 protected:
  ~EventSink() = default;
};

}  // namespace tidemark
