#include "app/new_file.hpp"

#include <filesystem>
#include <utility>

#include "io/file.hpp"
#include "io/owner.hpp"

namespace tidemark {

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

Task<> NewFile::make_partial() { created_ = co_await create_partial(*reactor_, partial_, maker_); }

Task<> NewFile::let_go() {
  co_await let_go_of_images();
  co_await maker_.close();
}

// Others may use them; who makes the same one yet waits.
Task<> NewFile::let_go_of_images() {
  const auto held = std::exchange(held_, nullptr), made = std::exchange(made_, nullptr);
  if (made) (void)co_await made->release().result();
  if (held) (void)co_await held->release().result();
}

Task<> NewFile::hold() { made_ = co_await HeldFile::take_made(*reactor_, created_); }

Task<> NewFile::publish() {
  if (!made_) co_await hold();
  if (replaces_) co_await unwrap(take_over_owner(path_, partial_));
  co_await fs::rename(*reactor_, partial_, path_, !replaces_);
  created_.path = path_;
  if (replaces_) created_.replaced = Replaced::content;
  std::string parent = std::filesystem::path(path_).parent_path().string();
  if (parent.empty()) parent.push_back('.');
  co_await fs::sync_dir(*reactor_, std::move(parent));
}

Task<> NewFile::discard() {
  co_await let_go_of_images();
  const auto undone = co_await undo_create_file(*reactor_, created_).result();
  (void)co_await maker_.close().result();
  co_await unwrap(undone);
}

}  // namespace tidemark
