#include "tracking/distrust.hpp"

#include <algorithm>

#include "tracking/checksum.hpp"
#include "tracking/space.hpp"
#include "tracking/store_file.hpp"

namespace tidemark::tracking {
namespace {

bool distrust_all(std::vector<CatalogueEntry>& entries, const std::string& why) {
  bool any = false;
  for (CatalogueEntry& entry : entries) {
    if (!entry.inconsistent.empty()) continue;
    entry.inconsistent = why;
    any = true;
  }
  return any;
}

bool distrust_all(Catalogue& catalogue, const std::string& why) {
  const bool now = distrust_all(catalogue.entries, why);
  const bool intended = catalogue.intent && distrust_all(catalogue.intent->entries, why);
  return now || intended;
}

// Whatever else the root says stays true.
Task<> write(StoreFile& file, Superblock root, const Catalogue& catalogue, Space space) {
  const std::vector<std::byte> encoded = catalogue.encode();
  root.about_groups = catalogue.about_groups();
  root.catalogue_bytes = encoded.size();
  root.catalogue_sum = checksum(encoded, root.store_id);
  AlignedBuffer pages(align_up(encoded.size(), page_bytes));
  Buffers(pages.bytes()).fill_zero();
  std::copy(encoded.begin(), encoded.end(), pages.data());
  for (auto& at : root.catalogue) {
    at = space.allocate(pages.size()).offset;
    co_await file.file().write(at, pages.bytes());
  }
  co_await file.file().sync();
  ++root.generation;
  ++root.version;
  co_await file.write_root(root, true);
}

Task<bool> distrust(StoreFile& file, std::string why) {
  const auto root = co_await file.read_root();
  if (!root) co_return false;
  auto catalogue = co_await file.read_catalogue(*root).result();
  if (!catalogue && catalogue.error().code() == Errc::corrupt) co_return false;
  if (!catalogue) co_await catalogue.error();
  Space space(root->data_start());
  space.take(*root, *catalogue);
  if (!distrust_all(*catalogue, why)) co_return false;
  co_await write(file, *root, *catalogue, std::move(space));
  co_return true;
}

// Whoever has it is not waited for.
Task<bool> is_free(Reactor& reactor, std::string path) {
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::look);
  const auto free = co_await file.try_share().result();
  co_await file.close();
  co_return co_await unwrap(free);
}

}  // namespace

Task<bool> distrust(Reactor& reactor, std::string path, std::string why) {
  const bool free = co_await is_free(reactor, path);
  if (!free) co_await Error(Errc::busy, "tracking store '" + path + "' is in use");
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::write, StoreFile::Links::refuse);
  const auto told = co_await distrust(file, std::move(why)).result();
  co_await file.close();
  co_return co_await unwrap(told);
}

}  // namespace tidemark::tracking
