// What a qcow2 image's options mean, and the gate for the names inside images: a backing file is a file or device of a
// format that the image says, and only read; a data file that nobody described lies beside its image.
#include "control/node_opener.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "block/node.hpp"
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
  if (*given < 0) return Error(Errc::invalid_argument, fmt::format("Parameter '{}' must not be negative", name));
  to = static_cast<std::uint64_t>(*given);
  return {};
}

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

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || (std::filesystem::equivalent(a, b, error) && !error);
}

// What an image may have opened by describing it: files and devices, of formats that are known to be safe.
bool is_plain(const schema::BlockdevRef& reference);

struct Plainness {
  bool operator()(const schema::BlockdevOptionsFile&) const { return true; }
  bool operator()(const schema::BlockdevOptionsRaw& raw) const { return is_plain(raw.file); }
  bool operator()(const schema::BlockdevOptionsQcow2& image) const {
    return is_plain(image.file) && !image.backing && !image.data_file;
  }
  template <class Other>
  bool operator()(const Other&) const {
    return false;
  }
};

bool is_plain(const BlockdevOptions& options) {
  return !options.node_name && !options.tracking && std::visit(Plainness{}, options.branch);
}
bool is_plain(const schema::BlockdevRef& reference) {
  const auto* inlined = std::get_if<schema::Box<BlockdevOptions>>(&reference.value);
  return inlined && is_plain(**inlined);
}

Result<BlockdevOptions> described_in_json(const std::string& name, const std::string& image) {
  constexpr std::string_view prefix = "json:";
  const auto wrong = [&](const std::string& why) {
    return Error(Errc::invalid_format, fmt::format("'{}': backing file '{}': {}", image, name, why));
  };
  auto json = parse_json(std::string_view(name).substr(prefix.size()));
  if (!json) return wrong(json.error().message());
  auto options = schema::from_json<BlockdevOptions>(*json);
  if (!options) return wrong(options.error().message());
  if (!is_plain(*options)) return wrong("it is not made of plain files; give the backing node with 'backing'");
  options->read_only.reset();
  return options;
}

}  // namespace

Task<std::unique_ptr<BlockDriver>> NodeOpener::open_qcow2(schema::BlockdevOptionsQcow2& qcow2, const Inherited& own) {
  auto file = co_await attach(std::move(qcow2.file), Role::file, own);
  const std::string image = (co_await file->node().driver().info()).filename;
  Qcow2OpenOptions given = co_await unwrap(to_open_options(qcow2, own.unmap));
  given.read_only = own.read_only;
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

Task<> NodeOpener::open_others(schema::BlockdevOptionsQcow2& qcow2, Qcow2Driver& driver, std::string image, Inherited own) {
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
  if (given && std::holds_alternative<std::nullptr_t>(given->value)) co_return nullptr;
  schema::BlockdevRef reference;
  if (given) {
    if (auto* name = std::get_if<std::string>(&given->value)) reference.value = std::move(*name);
    else reference.value = std::move(std::get<schema::Box<BlockdevOptions>>(given->value));
    co_return co_await attach(std::move(reference), Role::backing, own);
  }
  if (driver.backing_file().empty()) co_return nullptr;
  reference.value = schema::Box<BlockdevOptions>(co_await unwrap(describe_backing(driver, image)));
  if (own.depth >= chain_depth_max)
    co_await Error(Errc::invalid_format, fmt::format("'{}': its backing chain has more than {} layers", image, chain_depth_max));
  for (const ChainLink* above = own.chain; above; above = above->above)
    if (same_file(above->file, image))
      co_await Error(Errc::invalid_format, fmt::format("'{}': its backing chain loops: it is below itself", image));
  const ChainLink here{image, own.chain};
  own.chain = &here;
  ++own.depth;
  auto edge = co_await attach(std::move(reference), Role::backing, own).result();
  if (!edge) co_await edge.error().with_context(fmt::format("Could not open backing file of '{}'", image));
  co_return *std::move(edge);
}

Result<BlockdevOptions> NodeOpener::describe_backing(const Qcow2Driver& driver, const std::string& image) {
  if (driver.backing_file().starts_with("json:")) return described_in_json(driver.backing_file(), image);
  const auto path = Qcow2Driver::backing_path(image, driver.backing_file());
  if (!path)
    return Error(Errc::unsupported, fmt::format("'{}': backing file '{}' is not a plain file name; give the backing node with "
                                                "'backing'", image, driver.backing_file()));
  const std::string& name = *path;
  std::error_code error;
  BlockdevOptions file;
  file.driver = std::filesystem::is_block_file(name, error) ? BlockdevDriver::host_device : BlockdevDriver::file;
  schema::BlockdevOptionsFile where;
  where.filename = name;
  file.branch = where;
  BlockdevOptions node;
  schema::BlockdevRef below;
  below.value = schema::Box<BlockdevOptions>(std::move(file));
  if (driver.backing_format() == "qcow2") {
    node.driver = BlockdevDriver::qcow2;
    schema::BlockdevOptionsQcow2 format;
    format.file = std::move(below);
    node.branch = std::move(format);
  } else if (driver.backing_format() == "raw") {
    node.driver = BlockdevDriver::raw;
    schema::BlockdevOptionsRaw format;
    format.file = std::move(below);
    node.branch = std::move(format);
  } else {
    // Guessing by content would let a guest that writes a header choose what is opened.
    return Error(Errc::unsupported, fmt::format("'{}': the format of backing file '{}' is {}; give the backing node with 'backing'", image,
                                                name, driver.backing_format().empty() ? "not said" : "'" + driver.backing_format() + "'"));
  }
  return node;
}

}  // namespace tidemark
