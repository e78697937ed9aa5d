#include "app/images.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "backup/expectation.hpp"
#include "format/qcow2/driver.hpp"
#include "io/owner.hpp"
#include "storage/file.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

constexpr Permissions reading{Permissions::consistent_read, Permissions::all};
constexpr Permissions writing{Permissions::consistent_read | Permissions::write | Permissions::resize,
                              Permissions::consistent_read};

Task<BlockNode*> add_file(Graph& graph, std::string path, bool read_only) {
  FileOptions options;
  options.filename = std::move(path);
  options.read_only = read_only;
  auto driver = co_await open_file(graph.reactor(), std::move(options));
  NodeOptions node;
  node.read_only = read_only;
  co_return co_await graph.add(std::move(node), std::move(driver));
}

Task<std::unique_ptr<Edge>> attach_file(Graph& graph, std::string path, bool read_only) {
  BlockNode* file = co_await add_file(graph, std::move(path), read_only);
  const Permissions permissions = read_only ? reading : writing;
  co_return co_await unwrap(Edge::attach(*file, Role::file, permissions, "an image being opened"));
}

// `backing_name` as the image has to give it, of `backing`.
Task<BlockNode*> add_qcow2(Graph& graph, std::string path, bool read_only, std::unique_ptr<Edge> backing, std::string backing_name) {
  auto file = co_await attach_file(graph, path, read_only);
  Qcow2OpenOptions options;
  options.read_only = read_only;
  auto driver = co_await Qcow2Driver::open(std::move(file), options).result();
  if (!driver) co_await driver.error().with_context("'" + path + "'");
  const std::string named = (*driver)->backing_file(), format = (*driver)->backing_format();
  if (named != backing_name || (backing && format != "qcow2")) {
    (void)co_await (*driver)->close().result();
    co_await Error(Errc::corrupt, fmt::format("'{}' names backing file '{}' ({}), by its manifest it is '{}'", path, named, format,
                                              backing_name));
  }
  if (backing) (*driver)->set_backing(std::move(backing));
  NodeOptions node;
  node.read_only = read_only;
  co_return co_await graph.add(std::move(node), *std::move(driver));
}

}  // namespace

Task<std::unique_ptr<PointImage>> PointImage::open(Reactor& reactor, std::vector<std::string> layers) {
  std::unique_ptr<PointImage> image(new PointImage(reactor));
  auto opened = co_await image->open_layers(std::move(layers)).result();
  if (!opened) {
    (void)co_await image->close().result();
    co_await as_damage(opened.error());
  }
  co_return std::move(image);
}

PointImage::~PointImage() = default;

Task<> PointImage::open_layers(std::vector<std::string> layers) {
  std::unique_ptr<Edge> below;
  std::string backing_name;
  for (auto path = layers.rbegin(); path != layers.rend(); ++path) {
    const FileInfo info = co_await fs::stat(graph_.reactor(), *path);
    if (info.type != FileInfo::Type::regular) co_await Error(Errc::corrupt, fmt::format("'{}' is not a regular file", *path));
    BlockNode* node = co_await add_qcow2(graph_, *path, true, std::move(below), std::move(backing_name));
    const std::filesystem::path file(*path);
    backing_name = fmt::format("../{}/{}", file.parent_path().filename().string(), file.filename().string());
    const bool top = path + 1 == layers.rend();
    auto edge = Edge::attach(*node, top ? Role::root : Role::backing, reading, "a backup chain");
    below = co_await unwrap(std::move(edge));
  }
  disk_ = std::move(below);
}

Task<> PointImage::close() {
  disk_.reset();
  return graph_.close_all();
}

std::vector<std::string> image_paths(const BackupDirectory& directory, const std::vector<const PointManifest*>& chain,
                                     std::string_view disk) {
  std::vector<std::string> paths;
  for (const PointManifest* point : chain)
    paths.push_back(directory.point_path(point->id) + "/" + point->find(disk)->image_file());
  return paths;
}

Task<> check_chain(Reactor& reactor, const BackupDirectory& directory, std::vector<const PointManifest*> chain, std::string disk) {
  auto image = co_await PointImage::open(reactor, image_paths(directory, chain, disk));
  const std::uint64_t size = image->disk().size();
  co_await image->close();
  Expectations expected = co_await Expectations::open(reactor, directory, std::move(chain), std::move(disk));
  const std::uint64_t promised = expected.disk_size();
  co_await expected.close();
  if (size != promised) co_await Error(Errc::corrupt, fmt::format("the image has {} bytes where its manifest says {}", size, promised));
}

namespace {

Task<> create_qcow2_on(Graph& graph, std::string path, Qcow2CreateOptions options) {
  auto file = co_await attach_file(graph, std::move(path), false);
  co_await Qcow2Driver::create(*file, options);
  co_await file->flush();
}

Task<> create_qcow2(Reactor& reactor, std::string path, Qcow2CreateOptions options) {
  co_await create_file(reactor, path, 0, FilePreallocation::off);
  Graph graph(reactor);
  auto close = [&graph]() -> Task<> { return graph.close_all(); };
  co_await finally(create_qcow2_on(graph, std::move(path), std::move(options)), close);
}

}  // namespace

Task<> create_point_image(Reactor& reactor, std::string path, std::uint64_t size, std::string backing) {
  Qcow2CreateOptions options;
  options.size = size;
  if (!backing.empty()) options.backing_format = "qcow2";
  options.backing_file = std::move(backing);
  return create_qcow2(reactor, std::move(path), std::move(options));
}

HeldFile::~HeldFile() = default;

Task<std::unique_ptr<HeldFile>> HeldFile::take(Reactor& reactor, std::string path) {
  std::unique_ptr<HeldFile> held(new HeldFile(reactor));
  const auto taken = co_await held->take_now(std::move(path)).result();
  if (taken) co_return std::move(held);
  (void)co_await held->release().result();
  co_await taken.error();
}

Task<std::unique_ptr<HeldFile>> HeldFile::take_made(Reactor& reactor, CreatedFile made) {
  auto held = co_await take(reactor, made.path).result();
  if (!held && held.error().code() == Errc::not_found)
    co_await Error(Errc::not_found, fmt::format("'{}' is gone, which this was written to before it gets its name: another program has "
                                                "removed it; try again", made.path));
  std::unique_ptr<HeldFile> file = co_await unwrap(std::move(held));
  const auto named = co_await check_named(reactor, std::move(made)).result();
  if (named) co_return std::move(file);
  (void)co_await file->release().result();
  co_await named.error();
  co_return nullptr;
}

// It may have been replaced between its opening and its lock.
Task<> HeldFile::take_now(std::string path) {
  const FileInfo info = co_await fs::stat(graph_.reactor(), path);
  if (info.type != FileInfo::Type::regular)
    co_await Error(Errc::invalid_argument, fmt::format("'{}' is not a regular file", path));
  file_ = co_await attach_file(graph_, path, false);
  const FileInfo now = co_await fs::stat(graph_.reactor(), path);
  if (now.device != info.device || now.inode != info.inode)
    co_await Error(Errc::busy, fmt::format("another program has replaced '{}' at this moment; try again", path));
}

Task<> HeldFile::release() {
  file_.reset();
  return graph_.close_all();
}

Task<> check_replaceable(Reactor& reactor, std::string path) {
  auto held = co_await HeldFile::take(reactor, std::move(path));
  co_await held->release();
}

std::string behind_links(std::string name) {
  constexpr int links_max = 40;                       // the kernel's
  std::error_code error;
  std::filesystem::path path(std::move(name));
  for (int i = 0; i < links_max && std::filesystem::is_symlink(path, error); ++i) {
    const auto target = std::filesystem::read_symlink(path, error);
    if (error) break;
    path = path.parent_path() / target;
  }
  return path.string();
}

Task<std::unique_ptr<RestoreTarget>> RestoreTarget::create(Reactor& reactor, std::string path, std::string format,
                                                           std::uint64_t size, bool replace) {
  const bool there = co_await fs::exists(reactor, path);
  if (there && !replace) co_await Error(Errc::exists, fmt::format("'{}' exists; choose another file or give --force", path));
  std::unique_ptr<HeldFile> replaced;
  if (there) replaced = co_await HeldFile::take(reactor, path);
  std::unique_ptr<RestoreTarget> target(new RestoreTarget(reactor, std::move(path), there));
  target->replaced_ = std::move(replaced);
  auto created = co_await target->create_now(std::move(format), size).result();
  if (!created) {
    (void)co_await target->discard().result();
    co_await created.error();
  }
  co_return std::move(target);
}

RestoreTarget::~RestoreTarget() = default;

Task<> RestoreTarget::create_now(std::string format, std::uint64_t size) {
  created_ = co_await create_partial(reactor_, partial_path(), maker_);
  BlockNode* node = nullptr;
  if (format == "qcow2") {
    Qcow2CreateOptions options;
    options.size = size;
    co_await create_qcow2(reactor_, partial_path(), std::move(options));
    node = co_await add_qcow2(graph_, partial_path(), false, nullptr, std::string());
  } else {
    co_await create_file(reactor_, partial_path(), size, FilePreallocation::off);
    node = co_await add_file(graph_, partial_path(), false);
  }
  disk_ = co_await unwrap(Edge::attach(*node, Role::root, writing, "the restore"));
}

Task<> RestoreTarget::close() {
  disk_.reset();
  return graph_.close_all();
}

Task<> RestoreTarget::release() {
  Result<> released;
  if (replaced_) released = co_await replaced_->release().result();
  replaced_.reset();
  if (made_) (void)co_await made_->release().result();             // it was durable before
  made_.reset();
  co_await unwrap(released);
}

Task<> RestoreTarget::publish() {
  co_await disk_->flush();
  co_await close();
  made_ = co_await HeldFile::take_made(reactor_, created_);
  if (replaced_) co_await unwrap(take_over_owner(path_, partial_path()));
  co_await fs::rename(reactor_, partial_path(), path_, !replaces_);
  created_ = CreatedFile();
  std::string parent = std::filesystem::path(path_).parent_path().string();
  if (parent.empty()) parent = ".";      // GCC 12 moves a conditional temporary inside co_await bit by bit
  co_await fs::sync_dir(reactor_, std::move(parent));
  const auto released = co_await release().result();
  (void)co_await maker_.close().result();
  co_await unwrap(released);
}

Task<> RestoreTarget::discard() {
  (void)co_await close().result();
  (void)co_await release().result();
  const auto undone = co_await undo_create_file(reactor_, created_).result();
  (void)co_await maker_.close().result();
  if (!undone && undone.error().code() != Errc::not_found) co_await undone.error();
}

}  // namespace tidemark
