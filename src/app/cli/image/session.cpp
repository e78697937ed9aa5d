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

Task<BlockNode*> Session::resolve(Json description) {
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(
      co_await unwrap(schema::from_json<schema::BlockdevOptions>(description)));
  NodeOpener opener(graph_);
  co_return co_await opener.resolve(std::move(reference));
}

Task<Edge*> Session::open(Json description, bool write) {
  BlockNode* node = co_await resolve(std::move(description));
  auto edge = Edge::attach(*node, Role::root, write ? writing : reading, "tidemark image");
  if (!edge) {
    (void)co_await graph_.release(*node).result();
    co_await edge.error();
  }
  edges_.push_back(*std::move(edge));
  co_return edges_.back().get();
}

Task<Qcow2Driver*> Session::open_qcow2(std::string name, Qcow2OpenOptions options) {
  Json storage = co_await describe_storage(reactor(), name);
  storage.set("read-only", options.read_only);
  BlockNode* bytes = co_await resolve(std::move(storage));
  const Permissions permissions = options.read_only ? reading : writing;
  auto file = co_await unwrap(Edge::attach(*bytes, Role::file, permissions, "an image being opened"));
  auto opened = co_await Qcow2Driver::open(std::move(file), options).result();
  if (!opened) co_await opened.error().with_context("Could not open '" + name + "'");
  std::unique_ptr<Qcow2Driver> driver = *std::move(opened);
  Qcow2Driver* const image = driver.get();
  NodeOptions node;
  node.read_only = options.read_only;
  co_await graph_.add(std::move(node), std::move(driver));
  co_return image;
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
