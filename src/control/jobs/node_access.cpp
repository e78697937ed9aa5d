#include "control/jobs/node_access.hpp"

#include "block/status.hpp"
#include "control/bitmaps/bitmap_following.hpp"
#include "control/graph/file_names.hpp"
#include "control/graph/size_change.hpp"
#include "control/nodes/open_anew.hpp"
#include "control/nodes/read_only.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

Task<> NodeAccess::make_writable(BlockNode& node) {
  const auto drained = co_await node.graph().drain_within(node);
  co_await set_read_only(node, false);
}

Task<> NodeAccess::make_read_only(BlockNode& node) {
  const auto drained = co_await node.graph().drain_within(node);
  // The job that has written to it has told of what was lost; another may begin.
  (void)co_await open_anew(node).result();
  co_await set_read_only(node, true);
}

Task<> NodeAccess::uncover(BlockNode& image, Range range) {
  if (image.driver().name() != "qcow2")
    co_await Error(Errc::unsupported, "Node '" + image.name() + "' cannot give up what it holds");
  co_await static_cast<Qcow2Driver&>(image.driver()).uncover(range);
}

Task<> NodeAccess::give_back(BlockNode& image) {
  if (image.driver().name() == "qcow2") co_await static_cast<Qcow2Driver&>(image.driver()).give_back_if_much();
}

Task<std::string> NodeAccess::name_to_keep(BlockNode& node) { return name_to_keep_of(node); }

Result<> NodeAccess::check_size_change(const BlockNode& node) { return check_no_bitmaps_above(node); }

Task<> NodeAccess::prepare_bitmaps(BlockNode& from, BlockNode& to) { return prepare_to_follow(from, skip_filters(to)); }

Task<> NodeAccess::bring_bitmaps(BlockNode& from, BlockNode& to) { return bring_following_bitmaps(from, to); }

void NodeAccess::drop_bitmaps(BlockNode& from) noexcept { drop_following_bitmaps(from); }

Task<> NodeAccess::forget_bitmaps(BlockNode& from) { return forget_following_bitmaps(from); }

}  // namespace tidemark
