#include "app/cli/image/session.hpp"

#include <algorithm>

#include "control/node_opener.hpp"

namespace tidemark::cli {
namespace {

using P = Permissions;
constexpr Permissions reading{P::consistent_read, P::consistent_read | P::write_unchanged};
constexpr Permissions writing{P::consistent_read | P::write | P::resize, P::consistent_read | P::write_unchanged};

}  // namespace

Task<Edge*> Session::open(ImageName name, ImageAccess access) {
  Json description = co_await describe(reactor(), std::move(name), access);
  co_return co_await open(std::move(description), access.write);
}

Task<Edge*> Session::open(Json description, bool write) {
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(
      co_await unwrap(schema::from_json<schema::BlockdevOptions>(description)));
  NodeOpener opener(graph_);
  BlockNode* node = co_await opener.resolve(std::move(reference));
  auto edge = Edge::attach(*node, Role::root, write ? writing : reading, "tidemark image");
  if (!edge) {
    (void)co_await graph_.release(*node).result();
    co_await edge.error();
  }
  edges_.push_back(*std::move(edge));
  co_return edges_.back().get();
}

Task<> Session::release(Edge*& edge) {
  BlockNode& node = edge->node();
  std::erase_if(edges_, [&](const auto& held) { return held.get() == edge; });
  edge = nullptr;
  co_await graph_.release(node);
}

Task<> Session::close() {
  edges_.clear();
  return graph_.close_all();
}

}  // namespace tidemark::cli
