// Session: the nodes that one verb of `tidemark image` has open, closed together.
//
//   Session session(context.reactor);
//   auto close = [&session]() -> Task<> { return session.close(); };
//   co_await finally(run(session), close);
#pragma once

#include <memory>
#include <vector>

#include "app/cli/image/names.hpp"
#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"
#include "task/group.hpp"

namespace tidemark::cli {

class Session {
 public:
  explicit Session(Reactor& reactor) : graph_(reactor) {}

  // The session's until it closes.
  Task<Edge*> open(ImageName name, ImageAccess access);
  Task<Edge*> open(Json description, bool write, bool keeps_content = false);
  // The bytes that an image of some format lies in.
  Task<Edge*> open_bytes(std::string name, ImageAccess access);
  // A qcow2 image without anything below it, for what is not a disk's content.
  Task<BlockNode*> open_qcow2_node(std::string name, Qcow2OpenOptions options, bool force_share = false);
  Task<Qcow2Driver*> open_qcow2(std::string name, Qcow2OpenOptions options, bool force_share = false);
  Task<> close();

  // One that was opened to be read; nobody has had it between.
  Task<> begin_to_write(Edge& edge);
  // Lets go of one before the others, and closes its nodes.
  Task<> release(Edge*& edge);

  // An orderly end takes a moment; then nobody waits for servers any more.
  Task<> give_up_after(CancelToken interrupted, CancelToken done);
  bool gave_up() const noexcept { return given_up_.requested(); }
  CancelToken given_up() noexcept { return given_up_.token(); }
  bool writes() const noexcept;          // something is open that its closing may change

  Reactor& reactor() noexcept { return graph_.reactor(); }
  Graph& graph() noexcept { return graph_; }

 private:
  Task<BlockNode*> resolve(Json description, bool keeps_content = false);
  Task<Edge*> open_snapshot(ImageName name, ImageAccess access);
  Task<Edge*> keep(BlockNode& node, bool write);
  Task<std::unique_ptr<Qcow2Driver>> load_qcow2(std::string name, Qcow2OpenOptions options, ImageAccess access);

  Graph graph_;
  std::vector<std::unique_ptr<Edge>> edges_;
  CancelSource given_up_;
  bool writes_nodes_ = false;
};

// Runs body(session) and closes.  Interrupted, it ends within seconds, whatever a server does not answer.
template <class T>
Task<T> in_session(Reactor& reactor, std::function<Task<T>(Session&)> body, CancelToken interrupted = {}) {
  Session session(reactor);
  auto run = [&](TaskGroup& group) -> Task<T> {
    group.spawn(session.give_up_after(interrupted, group.token()));
    auto outcome = co_await body(session).result();
    const bool reads = !session.writes();
    auto closed = co_await session.close().result();
    // What is done is done, whatever came meanwhile.
    if (session.gave_up() && outcome && reads) closed = Result<>();
    if (session.gave_up() && !(outcome && closed)) co_await Error(Errc::cancelled, "interrupted");
    if (!outcome) co_await outcome.error();
    if (!closed) co_await closed.error();
    if constexpr (!std::is_void_v<T>) co_return *std::move(outcome);
  };
  co_return co_await with_group(reactor, run);
}

}  // namespace tidemark::cli
