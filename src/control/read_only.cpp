#include "control/read_only.hpp"

#include <fmt/format.h>

#include "control/auto_read_only.hpp"
#include "control/tracking_stores.hpp"

namespace tidemark {
namespace {

void tell(BlockNode& node, const Error& error) {
  const TrackingReport report{TrackingReport::Kind::failed, error.message()};
  node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
}

// They are on the disk, as it is now.  An error was told, and nothing else can be done about it: the image is read-only then,
// and its bitmaps are as they were when they were stored last.
Task<> end_tracking(BlockNode& node, NodeTracking& tracking) {
  (void)co_await tracking.after_close().result();
  co_await drop_tracking(node);
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent()) bitmap->set_read_only();
}

Task<> end_writing(BlockNode& node) {
  co_await unwrap(node.graph().check_no_writer(node));
  co_await unwrap(check_no_group(node));
  // What cannot be written is found while all can go on as it was.
  co_await save_tracking(node);
  const std::unique_ptr<NodeTracking> tracking = node.take_tracking();
  Result<> ended;
  if (tracking) ended = co_await tracking->before_close().result();
  if (ended) ended = co_await node.graph().set_read_only(node, true).result();
  if (ended && tracking) co_await end_tracking(node, *tracking);
  if (ended) co_return co_await end_unused_writing_of_storage(node);
  if (tracking) co_await resume_tracking(node, *tracking);
  co_await ended.error();
}

Task<> begin_writing(BlockNode& node) {
  co_await begin_to_write_storage(node);
  co_await node.graph().set_read_only(node, false);
  const Result<> tracked = co_await open_tracking(node).result();
  if (tracked) co_return;
  co_await drop_tracking(node);
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent()) bitmap->set_read_only();
  (void)co_await node.graph().set_read_only(node, true).result();
  co_await tracked.error();
}

}  // namespace

Result<> check_bitmaps_free(BlockNode& node) {
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->busy()) return Error(Errc::busy, fmt::format("Node '{}' is busy: its bitmap '{}' is in use", node.name(), bitmap->name()));
  return check_no_group(node);
}

Result<> check_no_group(BlockNode& node) {
  for (const auto* bitmaps : {&node.bitmaps().all(), &node.bitmaps().retired()})
    for (const auto& bitmap : *bitmaps)
      if (bitmap->persistent() && bitmap->of_a_group())
        return Error(Errc::busy, fmt::format("Node '{}' is busy: bitmap '{}' is part of a transaction whose jobs have not ended",
                                             node.name(), bitmap->name()));
  return {};
}

Task<> resume_tracking(BlockNode& node, NodeTracking& tracking) {
  (void)co_await tracking.after_close().result();
  const Result<> resumed = co_await open_tracking(node).result();
  if (resumed) co_return;
  tell(node, resumed.error());
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent()) bitmap->set_inconsistent("its store could not be opened again");
}

Task<> set_read_only(BlockNode& node, bool read_only) {
  if (node.read_only() == read_only) co_return;
  if (read_only) co_await end_writing(node);
  else co_await begin_writing(node);
}

}  // namespace tidemark
