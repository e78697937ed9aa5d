#include "control/nodes/images_made.hpp"

#include <fmt/format.h>

#include "base/paths.hpp"
#include "block/status.hpp"
#include "control/graph/file_names.hpp"
#include "format/qcow2/driver.hpp"
#include "format/raw/raw.hpp"
#include "storage/file.hpp"
#include "storage/memory.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

FilePreallocation to_preallocation(schema::PreallocMode mode) {
  switch (mode) {
    case schema::PreallocMode::off:
    case schema::PreallocMode::metadata: break;
    case schema::PreallocMode::falloc: return FilePreallocation::falloc;
    case schema::PreallocMode::full: return FilePreallocation::full;
  }
  return FilePreallocation::off;
}

Qcow2Preallocation to_qcow2_preallocation(schema::PreallocMode mode) {
  switch (mode) {
    case schema::PreallocMode::off: break;
    case schema::PreallocMode::metadata: return Qcow2Preallocation::metadata;
    case schema::PreallocMode::falloc: return Qcow2Preallocation::falloc;
    case schema::PreallocMode::full: return Qcow2Preallocation::full;
  }
  return Qcow2Preallocation::off;
}

Result<Qcow2CreateOptions> to_qcow2_options(const schema::BlockdevCreateOptionsQcow2& given) {
  Qcow2CreateOptions options;
  options.size = given.size;
  options.version = given.version == schema::BlockdevQcow2Version::v2 ? 2 : 3;
  options.backing_file = given.backing_file.value_or("");
  if (given.backing_fmt) options.backing_format = schema::to_string(*given.backing_fmt);
  if (given.cluster_size) options.cluster_size = *given.cluster_size;
  if (given.refcount_bits < 1 || given.refcount_bits > 64)
    return Error(Errc::invalid_argument, "Refcount width must be a power of two and may not exceed 64 bits");
  options.refcount_bits = static_cast<std::uint32_t>(given.refcount_bits);
  options.lazy_refcounts = given.lazy_refcounts;
  options.extended_l2 = given.extended_l2;
  options.data_file_raw = given.data_file_raw;
  options.preallocation = to_qcow2_preallocation(given.preallocation);
  options.compression = given.compression_type == schema::Qcow2CompressionType::zstd ? qcow2::CompressionType::zstd
                                                                                      : qcow2::CompressionType::zlib;
  return options;
}

Task<> make_qcow2(BlockNode& node, BlockNode* data_node, Qcow2CreateOptions options) {
  constexpr Permissions writing{Permissions::consistent_read | Permissions::write | Permissions::resize,
                                Permissions::consistent_read};
  auto file = co_await unwrap(Edge::attach(node, Role::root, writing, "an image being made"));
  std::unique_ptr<Edge> data;
  if (data_node) {
    data = co_await unwrap(Edge::attach(*data_node, Role::root, writing, "an image being made"));
    // QEMU's: the name that the node's file has.
    options.data_file = (co_await data_node->driver().info()).filename;
  }
  co_await Qcow2Driver::create(*file, std::move(options), data.get());
  co_await file->flush();
}

// A server that does not answer is not waited for once this is interrupted.
Task<> end_requests(BlockNode& node, BlockNode* data_node, CancelToken interrupted, CancelToken over) {
  Graph& graph = node.graph();
  constexpr Duration look_every = std::chrono::milliseconds(50);
  for (;;) {
    co_await graph.reactor().sleep(look_every, over);
    if (!interrupted.requested()) continue;
    co_await graph.cancel_in_flight(node);
    if (data_node) co_await graph.cancel_in_flight(*data_node);
  }
}

Task<> make_interruptible(BlockNode& node, BlockNode* data_node, Qcow2CreateOptions options) {
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(end_requests(node, data_node, options.interrupted, group.token()));
    co_await make_qcow2(node, data_node, options);
  };
  co_await with_group(node.graph().reactor(), body);
}

Task<> create_qcow2(Graph& graph, schema::BlockdevCreateOptionsQcow2 given, CancelToken interrupted = {}) {
  if (given.backing_fmt && !given.backing_file)
    co_await Error(Errc::invalid_argument, "Backing format cannot be used without backing file");
  Qcow2CreateOptions options = co_await unwrap(to_qcow2_options(given));
  options.interrupted = interrupted;
  NodeOpener opener(graph);
  BlockNode* node = co_await opener.resolve(std::move(given.file));
  BlockNode* data_node = nullptr;
  Result<> made;
  if (given.data_file) {
    auto resolved = co_await opener.resolve(std::move(*given.data_file)).result();
    if (resolved) data_node = *resolved;
    else made = resolved.error();
  }
  if (made) made = co_await make_interruptible(*node, data_node, std::move(options)).result();
  if (data_node) {
    const auto let_go = co_await graph.release(*data_node).result();
    if (made && !let_go) made = let_go.error();
  }
  auto released = co_await graph.release(*node).result();
  if (!made) co_await made.error();
  if (!released) co_await released.error();
}

}  // namespace

Task<> create_image(Graph& graph, schema::BlockdevCreateOptions options, CancelToken interrupted) {
  if (const auto* file = std::get_if<schema::BlockdevCreateOptionsFile>(&options.branch)) {
    if (file->preallocation == schema::PreallocMode::metadata)
      co_await Error(Errc::invalid_argument, "Unsupported preallocation mode 'metadata'");
    co_await create_file(graph.reactor(), file->filename, file->size, to_preallocation(file->preallocation), interrupted);
  } else if (auto* image = std::get_if<schema::BlockdevCreateOptionsQcow2>(&options.branch)) {
    co_await create_qcow2(graph, std::move(*image), interrupted);
  } else {
    co_await Error(Errc::unsupported, fmt::format("Driver '{}' does not support image creation", schema::to_string(options.driver)));
  }
}

namespace {

// The file of an image.
schema::BlockdevRef describe_file(const std::string& path) {
  schema::BlockdevOptionsFile where;
  where.filename = path;
  schema::BlockdevOptions file;
  file.driver = schema::BlockdevDriver::file;
  file.branch = std::move(where);
  schema::BlockdevRef storage;
  storage.value = schema::Box<schema::BlockdevOptions>(std::move(file));
  return storage;
}

schema::BlockdevRef describe_image(const std::string& path, const std::string& format, Backing backing) {
  schema::BlockdevOptions image;
  if (format == "qcow2") {
    schema::BlockdevOptionsQcow2 qcow2;
    qcow2.file = describe_file(path);
    if (backing == Backing::left_out) qcow2.backing.emplace().value = nullptr;
    image.driver = schema::BlockdevDriver::qcow2;
    image.branch = std::move(qcow2);
  } else {
    schema::BlockdevOptionsRaw raw;
    raw.file = describe_file(path);
    image.driver = schema::BlockdevDriver::raw;
    image.branch = std::move(raw);
  }
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(std::move(image));
  return reference;
}

Result<bool> is_qcow2_not_raw(const std::string& format) {
  if (format == "qcow2" || format == "raw") return format == "qcow2";
  return Error(Errc::invalid_argument, fmt::format("Unknown file format '{}'", format));
}

Task<std::unique_ptr<BlockDriver>> open_stand_in(BlockNode& storage, bool is_qcow2, std::uint64_t size) {
  if (is_qcow2) {
    Qcow2CreateOptions options;
    options.size = size;
    co_await make_qcow2(storage, nullptr, options);
  }
  constexpr Permissions writing{Permissions::consistent_read | Permissions::write | Permissions::resize,
                                Permissions::consistent_read};
  auto file = co_await unwrap(Edge::attach(storage, Role::file, writing, "an image being opened"));
  if (!is_qcow2) {
    auto raw = RawDriver::open(std::move(file), {});
    co_return co_await unwrap(std::move(raw));
  }
  const Qcow2OpenOptions plain;
  co_return co_await Qcow2Driver::open(std::move(file), plain);
}

}  // namespace

Task<BlockNode*> make_stand_in(Graph& graph, std::string format, std::uint64_t size) {
  const bool is_qcow2 = co_await unwrap(is_qcow2_not_raw(format));
  MemoryOptions memory;
  if (!is_qcow2) memory.size = size;
  auto storage_driver = co_await unwrap(open_memory(memory));
  NodeOptions unnamed;
  BlockNode* storage = co_await graph.add(unnamed, std::move(storage_driver));
  auto driver = co_await open_stand_in(*storage, is_qcow2, size).result();
  if (!driver) {
    (void)co_await graph.release(*storage).result();
    co_await driver.error();
  }
  co_return co_await graph.add(unnamed, *std::move(driver));
}

Task<> create_image_file(Graph& graph, std::string path, std::string format, std::uint64_t size) {
  BackingName none;
  (void)co_await create_overlay_file(graph, std::move(path), std::move(format), size, std::move(none));
}

BlockNode* node_below(BlockNode& source, schema::MirrorSyncMode sync) {
  BlockNode* below = nullptr;
  if (sync == schema::MirrorSyncMode::top) below = skip_filters(source).backing();
  if (sync == schema::MirrorSyncMode::none) below = &source;
  return below ? &skip_filters(*below) : nullptr;
}

Task<BackingName> name_below(BlockNode* below) {
  BackingName backing;
  if (!below) co_return backing;
  backing.name = co_await name_to_keep_of(*below);
  backing.format = skip_filters(*below).driver().name();
  co_return std::move(backing);
}

Result<> check_backing(const std::string& format, const BackingName& backing) {
  const auto is_qcow2 = is_qcow2_not_raw(format);
  if (!is_qcow2) return is_qcow2.error();
  if (!*is_qcow2 && !backing.name.empty())
    return Error(Errc::invalid_argument, fmt::format("Backing file not supported for file format '{}'", format));
  return {};
}

Task<CreatedFile> create_overlay_file(Graph& graph, std::string path, std::string format, std::uint64_t size, BackingName backing) {
  co_await unwrap(check_backing(format, backing));
  const bool is_qcow2 = format == "qcow2";
  const std::uint64_t file_size = is_qcow2 ? 0 : size;
  CreatedFile created = co_await create_file(graph.reactor(), path, file_size, FilePreallocation::off);
  if (!is_qcow2) co_return std::move(created);
  schema::BlockdevCreateOptionsQcow2 options;
  options.file = describe_file(path);
  options.size = size;
  if (!backing.name.empty()) {
    options.backing_file = name_from(path, backing.name);
    options.backing_fmt = schema::parse_enum<schema::BlockdevDriver>(backing.format);
  }
  const auto made = co_await create_qcow2(graph, std::move(options)).result();
  if (made) co_return std::move(created);
  leave_if_taken(created, made.error());
  (void)co_await undo_create_file(graph.reactor(), std::move(created)).result();
  co_await made.error();
  co_return created;
}

Task<BlockNode*> open_image_file(Graph& graph, std::string path, std::string format, Backing backing,
                                 std::string node_name) {
  (void)co_await unwrap(is_qcow2_not_raw(format));
  NodeOpener opener(graph);
  schema::BlockdevRef reference = describe_image(path, format, backing);
  auto& image = *std::get<schema::Box<schema::BlockdevOptions>>(reference.value);
  if (!node_name.empty()) image.node_name = std::move(node_name);
  co_return co_await opener.resolve(std::move(reference));
}

}  // namespace tidemark
