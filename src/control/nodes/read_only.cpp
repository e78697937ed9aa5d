#include "control/nodes/read_only.hpp"

#include <fmt/format.h>

#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/open_anew.hpp"
#include "control/nodes/tracking_stores.hpp"

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
  const Result<> tracked = co_await begin_tracking(node).result();
  if (tracked) co_return;
  co_await end_begun_writing(node, tracked.error());
  co_await tracked.error();
}

// Nobody believes what the image has of bitmaps from here on; where that cannot be said in it, it is not written any more.
Task<> disown_bitmaps(BlockNode& node, Qcow2Driver& image) {
  Result<> disowned;
  if (image.has_bitmaps()) disowned = co_await image.drop_bitmaps().result();
  if (disowned && !node.tracking() && image.tracked()) disowned = co_await image.set_untracked().result();
  if (!disowned) co_await give_up_image(node, image, disowned.error().message());
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

Task<> begin_tracking(BlockNode& node) {
  const Result<> tracked = co_await open_tracking(node, OpenedAs::written_again).result();
  if (tracked) co_return;
  co_await drop_tracking(node);
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent()) bitmap->set_read_only();
  co_await tracked.error();
}

// What it has lost is given up first.
Task<> end_begun_writing(BlockNode& node, Error why) {
  Result<> ended = co_await node.graph().set_read_only(node, true).result();
  if (ended) co_return;
  (void)co_await open_anew(node).result();
  ended = co_await end_writing(node).result();
  if (ended || node.tracking()) co_return;
  if (Qcow2Driver* image = image_with_bitmaps(node)) co_await give_up_image(node, *image, why.message());
}

Task<> resume_tracking(BlockNode& node, NodeTracking& tracking) {
  (void)co_await tracking.after_close().result();
  const Result<> resumed = co_await open_tracking(node, OpenedAs::written_again).result();
  if (resumed) co_return;
  tell(node, resumed.error());
  Qcow2Driver* const image = node.read_only() ? nullptr : image_with_bitmaps(node);
  if (image) co_await disown_bitmaps(node, *image);
  if (image && image->lost()) co_return;                 // they are claimed when it is opened anew
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent()) bitmap->set_inconsistent("its store could not be opened again");
}

Task<> set_read_only(BlockNode& node, bool read_only) {
  if (node.read_only() == read_only) co_return;
  if (read_only) co_await end_writing(node);
  else co_await begin_writing(node);
}

}  // namespace tidemark
