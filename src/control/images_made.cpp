#include "control/images_made.hpp"

#include <fmt/format.h>

#include "format/qcow2/driver.hpp"
#include "format/raw/raw.hpp"
#include "storage/file.hpp"
#include "storage/memory.hpp"

namespace tidemark {
namespace {

FilePreallocation to_preallocation(schema::PreallocMode mode) {
  switch (mode) {
    case schema::PreallocMode::off: return FilePreallocation::off;
    case schema::PreallocMode::falloc: return FilePreallocation::falloc;
    case schema::PreallocMode::full: return FilePreallocation::full;
  }
  return FilePreallocation::off;
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
  options.compression = given.compression_type == schema::Qcow2CompressionType::zstd ? qcow2::CompressionType::zstd
                                                                                      : qcow2::CompressionType::zlib;
  return options;
}

Task<> make_qcow2(BlockNode& node, Qcow2CreateOptions options) {
  constexpr Permissions writing{Permissions::consistent_read | Permissions::write | Permissions::resize,
                                Permissions::consistent_read};
  auto file = co_await unwrap(Edge::attach(node, Role::root, writing, "an image being made"));
  co_await Qcow2Driver::create(*file, options);
  co_await file->flush();
}

Task<> create_qcow2(Graph& graph, schema::BlockdevCreateOptionsQcow2 given) {
  if (given.backing_fmt && !given.backing_file)
    co_await Error(Errc::invalid_argument, "Backing format cannot be used without backing file");
  const Qcow2CreateOptions options = co_await unwrap(to_qcow2_options(given));
  NodeOpener opener(graph);
  BlockNode* node = co_await opener.resolve(std::move(given.file));
  auto made = co_await make_qcow2(*node, options).result();
  auto released = co_await graph.release(*node).result();
  if (!made) co_await made.error();
  if (!released) co_await released.error();
}

}  // namespace

Task<> create_image(Graph& graph, schema::BlockdevCreateOptions options) {
  if (const auto* file = std::get_if<schema::BlockdevCreateOptionsFile>(&options.branch)) {
    co_await create_file(graph.reactor(), file->filename, file->size, to_preallocation(file->preallocation));
  } else if (auto* image = std::get_if<schema::BlockdevCreateOptionsQcow2>(&options.branch)) {
    co_await create_qcow2(graph, std::move(*image));
  } else {
    co_await Error(Errc::unsupported, fmt::format("Driver '{}' does not support image creation", schema::to_string(options.driver)));
  }
}

namespace {

Result<bool> is_qcow2_not_raw(const std::string& format) {
  if (format == "qcow2" || format == "raw") return format == "qcow2";
  return Error(Errc::invalid_argument, fmt::format("Unknown file format '{}'", format));
}

Task<std::unique_ptr<BlockDriver>> open_stand_in(BlockNode& storage, bool is_qcow2, std::uint64_t size) {
  if (is_qcow2) {
    Qcow2CreateOptions options;
    options.size = size;
    co_await make_qcow2(storage, options);
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
  const bool is_qcow2 = co_await unwrap(is_qcow2_not_raw(format));
  const std::uint64_t file_size = is_qcow2 ? 0 : size;
  co_await create_file(graph.reactor(), path, file_size, FilePreallocation::off);
  if (!is_qcow2) co_return;
  schema::BlockdevOptionsFile where;
  where.filename = path;
  schema::BlockdevOptions file;
  file.driver = schema::BlockdevDriver::file;
  file.branch = std::move(where);
  schema::BlockdevCreateOptionsQcow2 options;
  options.file.value = schema::Box<schema::BlockdevOptions>(std::move(file));
  options.size = size;
  co_await create_qcow2(graph, std::move(options));
}

}  // namespace tidemark
