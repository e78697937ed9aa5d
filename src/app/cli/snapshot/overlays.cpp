#include "app/cli/snapshot/overlays.hpp"

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/image/make.hpp"
#include "app/new_file.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "io/file.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {
namespace {

Task<std::uint64_t> size_of(Reactor& reactor, ImageName image) {
  std::function<Task<std::uint64_t>(Session&)> body = [&](Session& session) -> Task<std::uint64_t> {
    ImageAccess access;
    access.force_share = true;
    const Edge* disk = co_await session.open(image, access);
    co_return disk->size();
  };
  co_return co_await in_session<std::uint64_t>(reactor, body);
}

Task<Qcow2CreateOptions> options_of(Reactor& reactor, const NewOverlay& overlay) {
  Qcow2CreateOptions options;
  ImageName below{overlay.below, overlay.below_format};
  options.size = co_await size_of(reactor, std::move(below));
  options.backing_file = name_seen_from(overlay.file, overlay.below);
  options.backing_format = overlay.below_format;
  co_return std::move(options);
}

// `files`: what was made here, of which nothing is to stay when this fails.
Task<> make_all(Reactor& reactor, const std::vector<NewOverlay>& overlays, std::vector<NewFile>& files) {
  for (const NewOverlay& overlay : overlays) {
    NewFile& file = files.emplace_back(NewFile::begin_new(reactor, overlay.file));
    co_await file.make_partial();
    co_await make_overlay(reactor, overlay, file.partial());
    co_await file.hold();
  }
  for (NewFile& file : files) co_await file.publish();
  // Nobody else has made one for these images: they are held.
  for (const NewOverlay& overlay : overlays) co_await remove_store_left_over(reactor, overlay.file);
}

}  // namespace

Task<> make_overlay(Reactor& reactor, NewOverlay overlay, std::string path) {
  FormatOptions format;
  format.qcow2 = co_await options_of(reactor, overlay);
  co_await make_image(reactor, std::move(path), "qcow2", std::move(format));
}

Task<> make_overlays(Reactor& reactor, std::vector<NewOverlay> overlays) {
  std::vector<NewFile> files;
  const auto made = co_await make_all(reactor, overlays, files).result();
  if (!made)
    for (NewFile& file : files) (void)co_await file.discard().result();
  for (NewFile& file : files) (void)co_await file.let_go().result();
  co_await unwrap(made);
}

// It may have been replaced between its opening and its lock.
Task<Edge*> hold_file(Session& session, std::string file) {
  const FileInfo before = co_await fs::stat(session.reactor(), file);
  ImageAccess access;
  access.write = true;
  ImageName bytes{file, "raw"};
  Edge* held = co_await session.open(std::move(bytes), access);
  const FileInfo now = co_await fs::stat(session.reactor(), file);
  if (now.device != before.device || now.inode != before.inode)
    co_await Error(Errc::busy, fmt::format("another program has replaced '{}' at this moment; try again", file));
  co_return held;
}

// Its bytes alone: nothing is written.
Task<> check_not_in_use(Reactor& reactor, std::string file) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    (void)co_await hold_file(session, file);
  };
  co_await in_session<void>(reactor, body);
}

Task<> check_new_file(Reactor& reactor, std::string file) {
  const bool there = co_await fs::exists(reactor, file);
  if (there) co_await Error(Errc::exists, fmt::format("'{}' exists; choose another name", file));
}

}  // namespace tidemark::cli
