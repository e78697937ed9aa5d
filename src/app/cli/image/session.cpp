#include "app/cli/image/session.hpp"

#include <algorithm>

#include "app/cli/image/snapshots.hpp"
#include "control/nodes/node_opener.hpp"
#include "task/cancel_follower.hpp"

namespace tidemark::cli {
namespace {

using P = Permissions;
constexpr Duration patience = std::chrono::seconds(2);      // when interrupted

constexpr Permissions reading{P::consistent_read, P::consistent_read | P::write_unchanged};
constexpr Permissions writing{P::consistent_read | P::write | P::resize, P::consistent_read | P::write_unchanged};

}  // namespace

Task<Edge*> Session::open(ImageName name, ImageAccess access) {
  if (!name.snapshot.empty()) co_return co_await open_snapshot(std::move(name), access);
  Json description = co_await describe(reactor(), std::move(name), access);
  co_return co_await open(std::move(description), access.write, access.keeps_content);
}

Task<BlockNode*> Session::resolve(Json description, bool keeps_content) {
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(
      co_await unwrap(schema::from_json<schema::BlockdevOptions>(description)));
  using Bitmaps = NodeOpener::ImageBitmaps;
  NodeOpener opener(graph_, keeps_content ? Bitmaps::true_still : Bitmaps::left_alone);
  co_return co_await opener.resolve(std::move(reference));
}

Task<Edge*> Session::open(Json description, bool write, bool keeps_content) {
  BlockNode* node = co_await resolve(std::move(description), keeps_content);
  co_return co_await keep(*node, write);
}

Task<Edge*> Session::open_bytes(std::string name, ImageAccess access) {
  Json description = Json::object({{"driver", "raw"}});
  Json storage = co_await describe_storage(reactor(), std::move(name));
  description.set("file", std::move(storage));
  apply(description, access);
  co_return co_await open(std::move(description), access.write);
}

Task<> Session::begin_to_write(Edge& edge) {
  const auto at_rest = co_await graph_.drain(edge.node());
  co_await graph_.set_read_only(edge.node(), false);
  co_await unwrap(edge.set_permissions(writing));
}

Task<Edge*> Session::keep(BlockNode& node, bool write) {
  auto edge = Edge::attach(node, Role::root, write ? writing : reading, "tidemark image");
  if (!edge) {
    (void)co_await graph_.release(node).result();
    co_await edge.error();
  }
  edges_.push_back(*std::move(edge));
  co_return edges_.back().get();
}

// Of one that has its data in another file that is not looked at.
Task<BlockNode*> Session::open_qcow2_node(std::string name, Qcow2OpenOptions options, bool force_share) {
  ImageAccess access;
  access.force_share = force_share;
  options.data_file_follows = true;
  writes_nodes_ = writes_nodes_ || !options.read_only;
  std::unique_ptr<Qcow2Driver> driver = co_await load_qcow2(std::move(name), options, access);
  NodeOptions node;
  node.read_only = options.read_only;
  co_return co_await graph_.add(std::move(node), std::move(driver));
}

Task<Qcow2Driver*> Session::open_qcow2(std::string name, Qcow2OpenOptions options, bool force_share) {
  BlockNode* node = co_await open_qcow2_node(std::move(name), options, force_share);
  co_return static_cast<Qcow2Driver*>(&node->driver());
}

Task<std::unique_ptr<Qcow2Driver>> Session::load_qcow2(std::string name, Qcow2OpenOptions options, ImageAccess access) {
  Json storage = co_await describe_storage(reactor(), name);
  access.write = !options.read_only;
  apply(storage, access);
  BlockNode* bytes = co_await resolve(std::move(storage));
  const Permissions permissions = options.read_only ? reading : writing;
  auto file = co_await unwrap(Edge::attach(*bytes, Role::file, permissions, "an image being opened"));
  auto opened = co_await Qcow2Driver::open(std::move(file), options).result();
  if (!opened) co_await opened.error().with_context("Could not open '" + name + "'");
  co_return *std::move(opened);
}

// What was below it then is what is below it now.
Task<Edge*> Session::open_snapshot(ImageName name, ImageAccess access) {
  const auto path = local_path(name.name);
  const std::string format = co_await format_of(reactor(), name, false);
  if (!path || format != "qcow2")
    co_await Error(Errc::unsupported, "'" + name.name + "': only qcow2 files have internal snapshots");
  ImageName top{*path, format};
  const auto snapshots = co_await snapshots_in(reactor(), top, access.force_share);
  auto layers = co_await chain_of(reactor(), top);
  layers.erase(layers.begin());
  Qcow2OpenOptions options;
  options.read_only = true;
  options.snapshot = co_await unwrap(choose_snapshot(snapshots, name.snapshot));
  std::unique_ptr<Edge> backing;
  if (!layers.empty()) {
    Json description = co_await describe_layers(reactor(), std::move(layers));
    apply(description, access);
    BlockNode* below = co_await resolve(std::move(description));
    backing = co_await unwrap(Edge::attach(*below, Role::backing, reading, "an image being opened"));
  }
  std::unique_ptr<Qcow2Driver> driver = co_await load_qcow2(*path, options, access);
  if (backing) driver->set_backing(std::move(backing));
  NodeOptions node;
  node.read_only = true;
  BlockNode* image = co_await graph_.add(std::move(node), std::move(driver));
  co_return co_await keep(*image, false);
}

Task<> Session::release(Edge*& edge) {
  BlockNode& node = edge->node();
  std::erase_if(edges_, [&](const auto& held) { return held.get() == edge; });
  edge = nullptr;
  co_await graph_.release(node);
}

Task<> Session::give_up_after(CancelToken interrupted, CancelToken done) {
  CancelSource either;
  const CancelFollower first(either, interrupted), second(either, done);
  while (!either.requested()) (void)co_await reactor().sleep(std::chrono::hours(1), either.token()).result();
  if (!done.requested()) (void)co_await reactor().sleep(patience, done).result();
  if (done.requested()) co_return;
  given_up_.request();
  co_await graph_.cancel_all_in_flight();
}

bool Session::writes() const noexcept {
  const auto can_write = [](const auto& edge) { return edge->permissions().writes(); };
  return writes_nodes_ || std::any_of(edges_.begin(), edges_.end(), can_write);
}

Task<> Session::close() {
  edges_.clear();
  return graph_.close_all();
}

}  // namespace tidemark::cli
