#include "control/nodes/open_anew.hpp"

#include <algorithm>

#include "block/lost_content.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/image_tracking.hpp"
#include "control/nodes/read_only.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

using Nodes = std::vector<BlockNode*>;

// What is opened anew with it, what is below first.
void collect(BlockNode& node, Nodes& found) {
  for (const Edge* edge : node.driver().edges())
    if (keeps_content(edge->role())) collect(edge->node(), found);
  if (std::find(found.begin(), found.end(), &node) == found.end()) found.push_back(&node);
}

bool has_lost(const BlockNode* node) { return node->driver().lost(); }

Task<> claim_bitmaps(BlockNode& node, Qcow2Driver& image) {
  auto* const tracking = dynamic_cast<ImageTracking*>(node.tracking());
  Result<> claimed;
  if (tracking) claimed = co_await tracking->take_over().result();
  else if (!node.tracking()) claimed = co_await begin_tracking(node).result();
  if (claimed) co_return;
  co_await give_up_image(node, image, "its bitmaps cannot be taken over: " + claimed.error().message());
  co_await claimed.error();
}

}  // namespace

Task<> open_anew(BlockNode& node) {
  Nodes all;
  collect(node, all);
  const bool any = std::any_of(all.begin(), all.end(), has_lost);
  if (!any) co_return;
  std::vector<std::string> names;                // they may go meanwhile
  for (const BlockNode* one : all) names.push_back(one->name());
  std::vector<Graph::DrainGuard> at_rest;
  for (const std::string& name : names)
    if (BlockNode* one = node.graph().find(name)) at_rest.push_back(co_await one->graph().drain_within(*one));
  all.clear();
  collect(node, all);
  std::erase_if(all, [](const BlockNode* one) { return !has_lost(one); });
  Result<> opened = co_await node.open_anew().result();
  for (BlockNode* one : all) {
    auto* const image = dynamic_cast<Qcow2Driver*>(&one->driver());
    if (!image || image->lost()) continue;
    const Result<> claimed = co_await claim_bitmaps(*one, *image).result();
    if (opened) opened = claimed;
  }
  co_await unwrap(opened);
}

Task<> give_up_image(BlockNode& node, Qcow2Driver& image, std::string why) {
  image.lose(why);
  (void)co_await node.make_durable().result();
}

}  // namespace tidemark
