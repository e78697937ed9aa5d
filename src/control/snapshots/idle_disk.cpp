#include "control/snapshots/idle_disk.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace tidemark {
namespace {

using Served = std::vector<std::shared_ptr<NbdExport>>;

// On the nodes' thread.

Result<> check_user(const Edge& user, const Served& served) {
  const auto busy = [&user] {
    return Error(Errc::busy, fmt::format("Node '{}' is busy: {} uses it", user.node().name(), user.describe_user()));
  };
  const BlockNode* above = user.parent();
  if (!above) {
    const auto is_its = [&user](const auto& nbd) { return nbd->has_disk() && &nbd->disk() == &user; };
    return std::any_of(served.begin(), served.end(), is_its) ? Result<>() : busy();
  }
  const std::string_view driver = above->driver().name();
  if (user.role() != Role::filtered || (driver != "throttle" && driver != "copy-on-read")) return busy();
  for (const Edge* next : above->parents())
    if (auto ok = check_user(*next, served); !ok) return ok;
  return {};
}

Task<Served> showing(const BlockNode& image, Served all) {
  for (const Edge* user : image.parents()) co_await unwrap(check_user(*user, all));
  const auto shows_another = [&image](const auto& nbd) {
    return !nbd->has_disk() || !image.graph().stands_on(nbd->disk().node(), image);
  };
  std::erase_if(all, shows_another);
  co_return std::move(all);
}

Task<> renew_all(Served served) {
  for (const auto& nbd : served)
    if (nbd->has_disk()) nbd->renew();
  co_return;
}

}  // namespace

Task<> IdleDisk::find(Place& place, BlockNode& image) {
  place_ = &place;
  served_ = co_await homes_.at(place, showing(image, exports_.at_home(place.reactor)));
  for (const auto& nbd : served_)
    if (nbd->shows_bitmaps())
      co_await Error(Errc::busy, fmt::format("Export '{}' shows bitmaps of the disk, which would not be its any more; remove it first",
                                             nbd->options().id));
  co_await unwrap(check_no_clients());
}

Result<> IdleDisk::check_no_clients() const {
  for (const auto& nbd : served_)
    if (nbd->clients() != 0)
      return Error(Errc::busy, fmt::format("A client is connected to export '{}', and its disk would change under it; disconnect it first",
                                           nbd->options().id));
  return {};
}

Result<> IdleDisk::close() {
  if (auto ok = check_no_clients(); !ok) return ok;
  for (const auto& nbd : served_) nbd->hide();
  closed_ = true;
  return {};
}

Task<> IdleDisk::renew() { return homes_.at(*place_, renew_all(served_)); }

void IdleDisk::open() noexcept {
  if (closed_)
    for (const auto& nbd : served_) nbd->show();
  closed_ = false;
}

}  // namespace tidemark
