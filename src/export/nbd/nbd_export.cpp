#include "export/nbd/nbd_export.hpp"

#include <algorithm>
#include <cerrno>

#include "block/graph.hpp"
#include "io/visit.hpp"

namespace tidemark {
namespace {

Error invalid(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

Result<> check_text(std::string_view what, const std::string& text) {
  const std::string named = std::string(what) + " '" + text + "'";
  if (text.size() > nbd::string_size_max) return invalid(named + " too long");
  if (!nbd::check_string(text)) return invalid(named + " contains NUL");
  return {};
}

// The node, then what it shows or stands on, as far as it is one disk.
NodeBitmap* find_below(BlockNode& top, std::string_view name) {
  for (BlockNode* at = &top; at;) {
    if (NodeBitmap* bitmap = at->bitmaps().find(name)) return bitmap;
    BlockNode* filtered = at->filtered();
    at = filtered ? filtered : at->backing();
  }
  return nullptr;
}

Result<NodeBitmap*> find_bitmap(BlockNode& exported, const NbdExportOptions::BitmapName& wanted) {
  NodeBitmap* bitmap = nullptr;
  if (wanted.node.empty()) {
    bitmap = find_below(exported, wanted.name);
  } else {
    auto node = exported.graph().lookup(wanted.node);
    if (!node) return node.error();
    bitmap = (*node)->bitmaps().find(wanted.name);
    if (!bitmap) return Error(Errc::not_found, "Dirty bitmap '" + wanted.name + "' not found");
  }
  if (!bitmap) return Error(Errc::not_found, "Bitmap '" + wanted.name + "' is not found");
  return bitmap;
}

Result<std::vector<std::shared_ptr<NodeBitmap>>> find_bitmaps(BlockNode& node, const NbdExportOptions& options) {
  std::vector<std::shared_ptr<NodeBitmap>> found;
  for (const auto& wanted : options.bitmaps) {
    auto bitmap = find_bitmap(node, wanted);
    if (!bitmap) return bitmap.error();
    if (auto usable = check_bitmap(**bitmap, BitmapUse::read); !usable) return usable.error();
    // As QEMU: to look at a bitmap while others write, and it records, one has to be one of them.
    if (!options.writable && !node.read_only() && (*bitmap)->enabled())
      return invalid("Enabled bitmap '" + wanted.name + "' incompatible with readonly export");
    if (std::string(nbd::context_dirty_bitmap).size() + wanted.name.size() > nbd::string_size_max)
      return invalid("Bitmap name '" + wanted.name + "' too long to export");
    auto same_name = [&](const auto& other) { return other->name() == wanted.name; };
    if (std::any_of(found.begin(), found.end(), same_name))
      return invalid("Bitmap '" + wanted.name + "' is exported twice");
    found.push_back((*bitmap)->shared_from_this());
  }
  return found;
}

nbd::BlockSizes block_sizes_of(const BlockNode& node, std::uint64_t size) noexcept {
  nbd::BlockSizes sizes;
  sizes.minimum = std::min(node.limits().request_align, nbd::minimum_block_size_max);
  // Every byte stays in reach, the last ones of a disk of an odd size too.
  while (!is_aligned(size, sizes.minimum)) sizes.minimum /= 2;
  sizes.preferred = std::max(sizes.preferred, sizes.minimum);
  return sizes;
}

Permissions permissions_of(const NbdExportOptions& options, bool active) {
  Permissions permissions;
  permissions.shares = Permissions::all & ~Permissions::resize;      // clients know the size for good
  if (!active) return permissions;
  permissions.uses = Permissions::consistent_read;
  if (options.writable) permissions.uses |= Permissions::write;
  return permissions;
}

}  // namespace

Result<std::shared_ptr<NbdExport>> NbdExport::create(BlockNode& node, Reactor& server,
                                                     NbdExportOptions options) {
  if (auto good = check_text("export name", options.name); !good) return good.error();
  if (auto good = check_text("description", options.description); !good) return good.error();
  if (options.writable && node.read_only() && !node.writes_when_active())
    return Error(Errc::permission, "Cannot export read-only node as writable", EROFS);
  auto bitmaps = find_bitmaps(node, options);
  if (!bitmaps) return bitmaps.error();

  const bool asleep = options.allow_inactive && !node.active();
  if (options.id.empty()) options.id = options.name;
  auto disk = Edge::attach(node, Role::root, permissions_of(options, !asleep), "export '" + options.id + "'");
  if (!disk) return disk.error();
  return std::shared_ptr<NbdExport>(
      new NbdExport(*std::move(disk), server, std::move(options), *std::move(bitmaps)));
}

NbdExport::NbdExport(std::unique_ptr<Edge> disk, Reactor& server, NbdExportOptions options,
                     std::vector<std::shared_ptr<NodeBitmap>> bitmaps)
    : server_(server), home_(disk->node().reactor()), options_(std::move(options)), disk_(std::move(disk)),
      size_(disk_->size()), sizes_(block_sizes_of(disk_->node(), size_)), bitmaps_(std::move(bitmaps)),
      clients_(server) {
  contexts_.push_back({MetaContext::Kind::allocation, std::string(nbd::context_allocation)});
  if (options_.allocation_depth)
    contexts_.push_back({MetaContext::Kind::depth, std::string(nbd::context_depth)});
  for (const auto& bitmap : bitmaps_) {
    bitmap->set_busy(true);
    contexts_.push_back({MetaContext::Kind::dirty_bitmap,
                         std::string(nbd::context_dirty_bitmap) + bitmap->name(), bitmap});
  }
}

NbdExport::~NbdExport() { TM_ASSERT(!disk_); }

std::uint16_t NbdExport::flags(nbd::Headers headers, bool contexts_chosen) const noexcept {
  namespace f = nbd::export_flag;
  std::uint16_t flags = f::has_flags | f::send_flush | f::send_fua | f::send_cache;
  // All connections share one node: a flush or FUA on one covers what any of them wrote.
  if (options_.multi_conn) flags |= f::can_multi_conn;
  if (writable()) flags |= f::send_trim | f::send_write_zeroes | f::send_fast_zero;
  else flags |= f::read_only;
  if (headers != nbd::Headers::simple) flags |= f::send_df;
  if (headers == nbd::Headers::extended && contexts_chosen) flags |= f::block_status_payload;
  return flags;
}

Result<> NbdExport::set_active(bool active) {
  if (!disk_ || !options_.allow_inactive) return {};
  return disk_->set_permissions(permissions_of(options_, active));
}

void NbdExport::renew() noexcept {
  loss_debt_ = {};
  size_ = disk_->size();
  sizes_ = block_sizes_of(disk_->node(), size_);
}

Task<> NbdExport::let_go() {
  for (const auto& bitmap : bitmaps_) bitmap->set_busy(false);
  BlockNode& node = disk_->node();
  disk_.reset();
  co_await node.graph().release(node);
}

Task<> NbdExport::close() {
  co_await clients_.wait_idle();
  const Result<void> released = co_await visit(server_, home_, let_go()).result();
  if (options_.on_removed) options_.on_removed();
  if (!released) co_await released.error();
}

}  // namespace tidemark
