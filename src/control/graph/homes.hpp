// Homes: the threads that nodes live on, the main one and the iothreads, each with a graph.
//
// Everything here is called on the main thread, by one command at a time (control/qmp/command_lock.hpp).
// What it does with nodes it does on their own thread: at() takes a task there and comes back.  Only
// commands move nodes, so a node that a command has found stays where it is until the command is over: it is pinned (Graph::pin).
// No two nodes have one name, wherever they are.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/graph.hpp"
#include "io/reactor_thread.hpp"
#include "io/visit.hpp"

namespace tidemark {

// A thread that nodes live on.  The graph is that thread's.
struct Place {
  Place(Reactor& main) : reactor(main), graph(main) {}
  Place(std::string name, std::unique_ptr<ReactorThread> own, const Graph& main)
      : id(std::move(name)), thread(std::move(own)), reactor(thread->reactor()), graph(reactor, main) {}

  const std::string id;                          // of the iothread; empty: the main thread
  const std::unique_ptr<ReactorThread> thread;
  Reactor& reactor;
  Graph graph;
};

// How a thread's backend works; what is not given is up to the backend.
struct ThreadOptions {
  unsigned workers_max = 64;
  std::optional<Duration> busy_wait_max;         // for events, before it sleeps
};

class Homes {
 public:
  using MakeBackend = std::function<Result<std::unique_ptr<IoBackend>>(const ThreadOptions&)>;

  Homes(Reactor& reactor, MakeBackend make_backend) : main_(reactor), make_backend_(std::move(make_backend)) {}
  Homes(const Homes&) = delete;

  Place& main() noexcept { return main_; }
  std::vector<Place*> all() noexcept;            // the main one first

  Place* find_thread(std::string_view id) noexcept;
  Result<> add_thread(std::string id, const ThreadOptions& options);
  // Errc::busy when nodes on it are in use; those that are not move to the main thread.
  Task<> remove_thread(std::string id);
  // At the end of a command: what it has found may go.
  Task<> unpin();
  // Closes all nodes; no users are left.
  Task<> close_all();

  template <class T>
  Task<T> at(Place& place, Task<T> work) {
    return visit(main_.reactor, place.reactor, std::move(work));
  }

  // Null when there is no such node.
  Task<Place*> find(std::string node);
  // Errors as Graph::lookup.
  Task<Place*> lookup(std::string node);
  // Errc::exists when a node elsewhere than at `place` has one of the names.
  Task<> check_free_elsewhere(std::vector<std::string> names, const Place& place);

  // Moves a node, with all that is connected to it.  Errc::busy when it is in use.
  Task<> move(std::string node, Place& to);
  // Moves nodes until all are on one thread, which is returned; those that do not exist are passed over.
  // Nothing moves unless all of it can.  The main thread when there are none.
  Task<Place*> gather(std::vector<std::string> nodes);

 private:
  struct Found {
    std::string node;
    Place* place;
  };
  Task<> move_all(const std::vector<Found>& nodes, Place& to);

  Place main_;
  MakeBackend make_backend_;
  std::list<std::unique_ptr<Place>> threads_;    // in the order they were made
};

}  // namespace tidemark
