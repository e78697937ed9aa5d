#include "app/cli/image/apart.hpp"

#include <algorithm>

#include "app/cli/fields.hpp"
#include "app/cli/image/uri.hpp"
#include "block/node.hpp"
#include "io/aligned.hpp"

namespace tidemark::cli {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB;
constexpr int looks = 5;                 // while others write

bool is_here(const std::string& host) {
  return host == "localhost" || host == "localhost." || host == "::1" || host == "ip6-localhost" || host.starts_with("127.");
}

Task<bool> is_same_server(Reactor& reactor, Json one, Json other) {
  const std::string kind = text(one, "type");
  if (kind != text(other, "type")) co_return false;
  if (kind == "unix") co_return co_await is_same_file(reactor, text(one, "path"), text(other, "path"));
  const std::string host = text(one, "host"), host2 = text(other, "host");
  co_return text(one, "port") == text(other, "port") && (host == host2 || (is_here(host) && is_here(host2)));
}

Task<bool> is_same_export(Reactor& reactor, std::string one, std::string other) {
  const auto first = describe_nbd(one), second = describe_nbd(other);
  if (!first || !second || text(*first, "export") != text(*second, "export")) co_return false;
  co_return co_await is_same_server(reactor, *first->find("server"), *second->find("server"));
}

}  // namespace

Apart::Apart(const Context& context, Session& session) : context_(context), session_(session) {
  for (const auto& node : session.graph().nodes()) sources_.push_back(node.get());
}

bool Apart::is_source(const BlockNode& node) const { return std::find(sources_.begin(), sources_.end(), &node) != sources_.end(); }

Task<Writers> Apart::writers() {
  Writers found = Writers::none;
  for (BlockNode* node : sources_) {
    if (!node->driver().edges().empty()) continue;
    const ImageInfo info = co_await node->driver().info();
    const Writers its = node->driver().name() == "file" ? writers_of(info.filename) : Writers::unknown;
    if (its == Writers::some) co_return its;
    if (its == Writers::unknown) found = its;
  }
  co_return found;
}

Task<BlockNode*> Apart::find_alike(Edge& target) {
  for (BlockNode* node : std::vector<BlockNode*>(sources_.rbegin(), sources_.rend())) {
    const Permissions reading{Permissions::consistent_read, Permissions::all};
    auto source = co_await unwrap(Edge::attach(*node, Role::root, reading, "tidemark image"));
    const bool alike = co_await read_alike(*source, target);
    if (alike) co_return node;
  }
  co_return nullptr;
}

Task<bool> Apart::read_alike(Edge& source, Edge& target) {
  const std::uint64_t size = align_down(std::min(source.size(), target.size()), sector_size);
  for (std::uint64_t at = 0; at < size; at += piece_max) {
    co_await unwrap(context_.check_interrupted());
    const Range piece{at, std::min(piece_max, size - at)};
    bool alike = false;
    for (int i = 0; i < looks && !alike; ++i) alike = co_await piece_alike(source, target, piece);
    if (!alike) co_return false;
  }
  co_return size != 0;
}

Task<bool> Apart::piece_alike(Edge& source, Edge& target, Range piece) {
  AlignedBuffer one(piece.length), other(piece.length);
  co_await source.read(piece.offset, one.bytes());
  co_await target.read(piece.offset, other.bytes());
  co_return std::ranges::equal(one.bytes(), other.bytes());
}

Task<std::string> Apart::find_same_export() {
  std::vector<std::string> ours;
  for (BlockNode* node : sources_)
    if (node->driver().name() == "nbd") ours.push_back((co_await node->driver().info()).filename);
  for (const auto& node : session_.graph().nodes()) {
    if (node->driver().name() != "nbd" || is_source(*node)) continue;
    const ImageInfo info = co_await node->driver().info();
    for (const std::string& name : ours) {
      const bool same = co_await is_same_export(session_.reactor(), name, info.filename);
      if (same) co_return name;
    }
  }
  co_return std::string();
}

}  // namespace tidemark::cli
