#include "app/cli/image/new_file.hpp"

#include <filesystem>

#include "io/file.hpp"
#include "io/owner.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {

Task<NewFile> NewFile::begin(Reactor& reactor, std::string path) {
  std::string name = behind_links(std::move(path));
  const bool there = co_await fs::exists(reactor, name);
  if (there) co_await check_replaceable(reactor, name);
  co_return NewFile(reactor, std::move(name), there);
}

Task<NewFile> NewFile::begin_held(Reactor& reactor, std::string path) {
  NewFile file = co_await begin(reactor, std::move(path));
  if (file.replaces_) file.held_ = co_await HeldFile::take(reactor, file.path_);
  co_return std::move(file);
}

Task<> NewFile::make_partial() { (void)co_await create_partial(*reactor_, partial_); }

Task<> NewFile::let_go() {
  if (held_) co_await held_->release();
  held_.reset();
}

Task<> NewFile::publish() {
  if (replaces_) co_await unwrap(take_over_owner(path_, partial_));
  co_await fs::rename(*reactor_, partial_, path_, !replaces_);
  published_ = true;
  std::string parent = std::filesystem::path(path_).parent_path().string();
  if (parent.empty()) parent.push_back('.');
  co_await fs::sync_dir(*reactor_, std::move(parent));
}

Task<> NewFile::discard() {
  if (published_ && replaces_) co_return;
  std::string name = published_ ? path_ : partial_;
  const bool there = co_await fs::exists(*reactor_, name);
  if (there) co_await fs::unlink(*reactor_, std::move(name));
}

}  // namespace tidemark::cli
