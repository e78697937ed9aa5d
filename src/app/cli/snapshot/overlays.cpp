#include "app/cli/snapshot/overlays.hpp"

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/image/new_file.hpp"
#include "io/file.hpp"

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

}  // namespace

Task<> make_overlay(Reactor& reactor, NewOverlay overlay, std::string path) {
  FormatOptions format;
  ImageName below{overlay.below, overlay.below_format};
  format.qcow2.size = co_await size_of(reactor, std::move(below));
  format.qcow2.backing_file = name_seen_from(overlay.file, overlay.below);
  format.qcow2.backing_format = overlay.below_format;
  co_await make_image(reactor, std::move(path), "qcow2", std::move(format));
}

Task<> make_overlays(Reactor& reactor, std::vector<NewOverlay> overlays) {
  std::vector<NewFile> files;
  std::size_t published = 0;
  Result<> made;
  for (std::size_t i = 0; made && i < overlays.size(); ++i) {
    NewFile file = co_await NewFile::begin(reactor, overlays[i].file);
    files.push_back(file);
    made = co_await make_overlay(reactor, overlays[i], file.partial()).result();
  }
  for (; made && published < files.size(); ++published) made = co_await files[published].publish().result();
  if (made) co_return;
  for (std::size_t i = 0; i < files.size(); ++i) {
    (void)co_await files[i].discard().result();
    if (i < published) (void)co_await fs::unlink(reactor, overlays[i].file).result();
  }
  co_await made.error();
}

// Its bytes alone: nothing is written.
Task<> check_not_in_use(Reactor& reactor, std::string file) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.write = true;
    ImageName bytes{file, "raw"};
    (void)co_await session.open(std::move(bytes), access);
  };
  co_await in_session<void>(reactor, body);
}

Task<> check_new_file(Reactor& reactor, std::string file) {
  const bool there = co_await fs::exists(reactor, file);
  if (there) co_await Error(Errc::exists, fmt::format("'{}' exists; choose another name", file));
}

}  // namespace tidemark::cli
