// What a qcow2 image's options mean, and the gate for the names inside images: a backing file is a file or device of a
// format that the image says, and only read; a data file that nobody described lies beside its image.
#include "control/nodes/node_opener.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "block/node.hpp"
#include "control/graph/backing_names.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

using schema::BlockdevDriver;
using schema::BlockdevOptions;

namespace {

using qcow2::DiscardCause;
using qcow2::Metadata;

qcow2::OverlapChecks template_checks(schema::Qcow2OverlapCheckMode mode) {
  switch (mode) {
    case schema::Qcow2OverlapCheckMode::none: return qcow2::no_overlap_checks;
    case schema::Qcow2OverlapCheckMode::constant: return qcow2::constant_overlap_checks;
    case schema::Qcow2OverlapCheckMode::cached: break;
    case schema::Qcow2OverlapCheckMode::all: return qcow2::all_overlap_checks;
  }
  return qcow2::cached_overlap_checks;
}

qcow2::OverlapChecks overlap_checks(const std::optional<schema::Qcow2OverlapChecks>& given) {
  using Mode = schema::Qcow2OverlapCheckMode;
  if (!given) return template_checks(Mode::cached);
  if (const auto* mode = std::get_if<Mode>(&given->value)) return template_checks(*mode);
  const auto& flags = std::get<schema::Qcow2OverlapCheckFlags>(given->value);
  qcow2::OverlapChecks checks = template_checks(flags.template_.value_or(Mode::cached));
  const struct {
    const std::optional<bool>& wanted;
    Metadata kind;
  } kinds[] = {
      {flags.main_header, Metadata::main_header},       {flags.active_l1, Metadata::active_l1},
      {flags.active_l2, Metadata::active_l2},           {flags.refcount_table, Metadata::refcount_table},
      {flags.refcount_block, Metadata::refcount_block}, {flags.snapshot_table, Metadata::snapshot_table},
      {flags.inactive_l1, Metadata::inactive_l1},       {flags.inactive_l2, Metadata::inactive_l2},
      {flags.bitmap_directory, Metadata::bitmap_directory},
  };
  for (const auto& [wanted, kind] : kinds) {
    const qcow2::OverlapChecks bit = qcow2::checks_of(kind);
    if (wanted) checks = static_cast<qcow2::OverlapChecks>(*wanted ? checks | bit : checks & ~bit);
  }
  return checks;
}

// Options that QEMU has as signed numbers; zero is the default, as there.
Result<> take_bytes(const std::optional<std::int64_t>& given, const char* name, std::optional<std::uint64_t>& to) {
  if (!given || *given == 0) return {};
  const Result<std::uint64_t> bytes = to_unsigned(name, *given);
  if (!bytes) return bytes.error();
  to = *bytes;
  return {};
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || (std::filesystem::equivalent(a, b, error) && !error);
}

}  // namespace

Result<Qcow2OpenOptions> to_open_options(const schema::BlockdevOptionsQcow2& q, bool unmap) {
  Qcow2OpenOptions options;
  options.data_file_follows = true;
  options.lazy_refcounts = q.lazy_refcounts;
  options.discard_no_unref = q.discard_no_unref.value_or(false);
  options.overlap_checks = overlap_checks(q.overlap_check);
  options.pass_discards = 0;
  if (q.pass_discard_request.value_or(unmap)) options.pass_discards |= qcow2::causes(DiscardCause::request);
  if (q.pass_discard_snapshot.value_or(true)) options.pass_discards |= qcow2::causes(DiscardCause::snapshot);
  if (q.pass_discard_other.value_or(false)) options.pass_discards |= qcow2::causes(DiscardCause::other);
  if (auto ok = take_bytes(q.cache_size, "cache-size", options.caches.total); !ok) return ok.error();
  if (auto ok = take_bytes(q.l2_cache_size, "l2-cache-size", options.caches.l2); !ok) return ok.error();
  if (auto ok = take_bytes(q.refcount_cache_size, "refcount-cache-size", options.caches.refcount); !ok) return ok.error();
  if (auto ok = take_bytes(q.l2_cache_entry_size, "l2-cache-entry-size", options.l2_slice_bytes); !ok) return ok.error();
  constexpr std::int64_t seconds_max = 0x7fffffff;
  const std::int64_t interval = q.cache_clean_interval.value_or(600);
  if (interval < 0 || interval > seconds_max) return Error(Errc::invalid_argument, "Cache clean interval too big");
  options.cache_clean_interval = std::chrono::seconds(interval);
  return options;
}

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_qcow2(schema::BlockdevOptionsQcow2& qcow2, const Inherited& own) {
  auto file = co_await attach(std::move(qcow2.file), Role::file, own);
  const std::string image = (co_await file->node().driver().info()).filename;
  Qcow2OpenOptions given = co_await unwrap(to_open_options(qcow2, own.unmap));
  given.read_only = own.read_only;
  given.bitmaps_follow = image_bitmaps_ == ImageBitmaps::followed;
  given.keeps_content = image_bitmaps_ == ImageBitmaps::true_still;
  given.write_order = qcow2::WriteOrder::standard_but(graph_.workings().broken);
  auto opened = co_await Qcow2Driver::open(std::move(file), given).result();
  if (!opened) co_await opened.error().with_context(fmt::format("Could not open '{}'", image));
  std::unique_ptr<Qcow2Driver> driver = *std::move(opened);
  const auto completed = co_await open_others(qcow2, *driver, image, own).result();
  if (!completed) {
    (void)co_await driver->close().result();
    co_await completed.error();
  }
  co_return std::unique_ptr<BlockDriver>(std::move(driver));
}

// An image that only looks like one may be what a guest wrote to a raw disk: nothing is opened because it says so.
Task<> NodeOpener::open_others(schema::BlockdevOptionsQcow2& qcow2, Qcow2Driver& driver, std::string image, Inherited own) {
  if (own.guessed && (driver.needs_data_file() || !driver.backing_file().empty()))
    co_await Error(Errc::invalid_format, fmt::format("'{}': the image above does not say that it is qcow2, so the files that it names "
                                                     "are not opened; give the backing node with 'backing'", image));
  if (driver.needs_data_file()) driver.set_data_file(co_await open_data_file(qcow2.data_file, driver, image, own));
  else if (qcow2.data_file)
    co_await Error(Errc::invalid_argument, "'data-file' can only be set for images with an external data file");
  auto backing = co_await open_backing(qcow2.backing, driver, std::move(image), own);
  if (backing) driver.set_backing(std::move(backing));
}

// A guest's data goes where its image says only when that is beside the image: else who made the image could have any
// file of this host served to his guest.
Task<std::unique_ptr<Edge>> NodeOpener::open_data_file(std::optional<schema::BlockdevRef>& given, const Qcow2Driver& driver,
                                                       std::string image, Inherited own) {
  if (given) co_return co_await attach(std::move(*given), Role::data_file, own);
  if (driver.data_file().empty()) co_await Error(Errc::invalid_argument, "'data-file' is required for this image");
  std::error_code error;
  const auto directory_of = [&error](const std::filesystem::path& file) {
    return std::filesystem::absolute(file, error).lexically_normal().parent_path();
  };
  const std::filesystem::path path = (std::filesystem::path(image).parent_path() / driver.data_file()).lexically_normal();
  const bool beside = directory_of(path) == directory_of(image) && !error && !std::filesystem::is_symlink(path, error);
  if (!beside)
    co_await Error(Errc::invalid_argument, fmt::format("'{}': its data file '{}' does not lie beside it; give the node with 'data-file'",
                                                       image, driver.data_file()));
  schema::BlockdevOptionsFile where;
  where.filename = path.string();
  BlockdevOptions file;
  file.driver = BlockdevDriver::file;
  file.branch = std::move(where);
  schema::BlockdevRef reference;
  reference.value = schema::Box<BlockdevOptions>(std::move(file));
  co_return co_await attach(std::move(reference), Role::data_file, own);
}

Task<std::unique_ptr<Edge>> NodeOpener::open_backing(std::optional<schema::BlockdevRefOrNull>& given, const Qcow2Driver& driver,
                                                     std::string image, Inherited own) {
  own.read_only = true;
  own.auto_read_only = false;
  const ChainLink here{image, own.chain};
  own.chain = &here;
  if (given && std::holds_alternative<std::nullptr_t>(given->value)) co_return nullptr;
  schema::BlockdevRef reference;
  if (given) {
    if (auto* name = std::get_if<std::string>(&given->value)) reference.value = std::move(*name);
    else reference.value = std::move(std::get<schema::Box<BlockdevOptions>>(given->value));
    co_return co_await attach(std::move(reference), Role::backing, own);
  }
  if (driver.backing_file().empty()) co_return nullptr;
  if (own.depth >= chain_depth_max)
    co_await Error(Errc::invalid_format, fmt::format("'{}': its backing chain has more than {} layers", image, chain_depth_max));
  const std::string& name = driver.backing_file();
  const bool said = !driver.backing_format().empty() || name.starts_with("json:");
  const std::string format = said ? driver.backing_format() : "raw";
  BlockdevOptions described = co_await unwrap(describe_backing(image, name, format));
  // Before it is opened: one that is being written is locked, which says nothing of chains.
  for (const BlockdevOptions* layer = &described; layer; layer = described_below(*layer), ++own.depth)
    for (const ChainLink* above = own.chain; above; above = above->above)
      if (same_file(above->file, file_of(*layer)))
        co_await Error(Errc::invalid_format, fmt::format("'{}': its backing chain loops: '{}' is below itself", image, file_of(*layer)));
  if (!said) {
    own.guessed = true;
    const bool qcow2 = co_await looks_like_qcow2(described, own);
    if (qcow2) described = co_await unwrap(describe_backing(image, name, "qcow2"));
  }
  reference.value = schema::Box<BlockdevOptions>(std::move(described));
  auto edge = co_await attach(std::move(reference), Role::backing, own).result();
  if (!edge) co_await edge.error().with_context(fmt::format("Could not open backing file of '{}'", image));
  co_return *std::move(edge);
}

Task<bool> NodeOpener::looks_like_qcow2(BlockdevOptions described, Inherited own) {
  schema::BlockdevRef reference;
  reference.value = schema::Box<BlockdevOptions>(std::move(described));
  auto edge = co_await attach(std::move(reference), Role::backing, own);
  BlockNode& node = edge->node();
  AlignedBuffer start(std::min<std::uint64_t>(edge->size(), sector_size));
  const Result<> read = co_await edge->read(0, start.bytes()).result();
  edge.reset();
  co_await graph_.release(node);
  co_await unwrap(read);
  co_return qcow2::first_cluster_size(start.bytes()).ok();
}

}  // namespace tidemark
