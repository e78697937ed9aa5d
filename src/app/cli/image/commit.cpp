// What an image has goes into one below it, and is durable there before the image is emptied: cut off anywhere the image
// reads as before.
#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/kept_bitmaps.hpp"
#include "app/cli/image/leaks.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "format/qcow2/check/offline.hpp"
#include "image/copy.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

// How many layers there are above the base.
Task<std::size_t> layers_above(Reactor& reactor, const std::vector<ImageName>& chain, std::string base) {
  if (chain.size() < 2) co_await Error(Errc::invalid_argument, "Image does not have a backing file");
  if (base.empty()) co_return 1;
  const auto wanted = co_await fs::stat(reactor, base).result();
  for (std::size_t i = 1; i < chain.size(); ++i) {
    const FileInfo file = co_await fs::stat(reactor, chain[i].name);
    const bool is_it = wanted && file.device == wanted->device && file.inode == wanted->inode;
    if (is_it || chain[i].name == base) co_return i;
  }
  co_await Error(Errc::not_found, fmt::format("Did not find '{}' in the backing chain of '{}'", base, chain[0].name));
  co_return 0;
}

// Behind the end of an image, one that stands on it reads zeroes, where the base may have something.
Task<> cover_tail(Edge& top, Edge& base, std::uint64_t above) {
  const std::uint64_t end = std::min(base.size(), above);
  if (end <= top.size()) co_return;
  const Range tail{top.size(), end - top.size()};
  co_await base.write_zeroes(tail, WriteFlags::may_unmap);
}

// `begun`: the base is not as it was any more.
Task<image::CopyReport> copy_down(const Context& context, Edge& top, Edge& base, std::uint64_t above, bool& begun) {
  const bool longer = base.size() < top.size();
  if (longer) co_await base.truncate(top.size());
  begun = true;
  Progress progress(context, "commit");
  const Range all{0, top.size()};
  image::CopyOptions copy;
  copy.only_allocated = true;
  copy.course.interrupted = context.interrupted;
  copy.course.progress = [&progress, all](std::uint64_t done) { progress.update(done, all.length); };
  const image::CopyReport report = co_await image::copy_disk(top, all, base, std::move(copy));
  co_await cover_tail(top, base, above);
  co_await base.flush();
  co_return report;
}

// What is wrong when the base may have a part of the image already.
Error broken_off(const Error& error, const std::string& top, const std::string& base, const std::string& left) {
  if (error.code() == Errc::cancelled)
    return Error(Errc::cancelled, fmt::format("interrupted; '{}' reads as before, '{}' has a part of it{}", top, base, left));
  const char* way_out = error.code() == Errc::no_space ? "make room and commit again" : "commit again when that is put right";
  const std::string said = fmt::format("{}; '{}' reads as before, '{}' has a part of it: {}{}", error.message(), top, base, way_out, left);
  return Error(error.code(), said, error.os_errno());
}

// The layers above the base are opened as if they stood on nothing: only what they have is copied.
Task<image::CopyReport> commit_to(const Context& context, std::vector<ImageName> above, ImageName base,
                                   std::uint64_t size_above) {
  std::optional<KeptBitmaps> kept;
  Result<> stored;
  bool begun = false;
  std::function<Task<image::CopyReport>(Session&)> body = [&](Session& session) -> Task<image::CopyReport> {
    Json description = co_await describe_layers(session.reactor(), above);
    Edge* top = co_await session.open(std::move(description), false);
    ImageAccess access;
    access.write = access.keeps_content = true;
    Edge* below = co_await session.open(base, access);
    kept.emplace(co_await KeptBitmaps::take(context, base, below->node()));
    auto copied = co_await copy_down(context, *top, *below, size_above, begun).result();
    stored = co_await kept->put_back(below->node()).result();
    co_return co_await unwrap(std::move(copied));
  };
  auto copied = co_await in_session<image::CopyReport>(context.reactor, body, context.interrupted).result();
  std::string left;
  if (!copied && kept) left = co_await tidy_after_failure(context, base);
  if (kept) stored = co_await kept->finish(std::move(stored)).result();
  if (copied) co_await unwrap(stored);
  if (!copied && !stored) left += "; its bitmaps do not count any more";
  if (!copied && begun) co_await broken_off(copied.error(), above[0].name, base.name, left);
  if (!copied && !left.empty()) co_await Error(copied.error().code(), copied.error().message() + left, copied.error().os_errno());
  co_return co_await unwrap(std::move(copied));
}

// One whose data lies in another file cannot be emptied by its tables alone.
Task<> empty_slowly(const Context& context, std::string path) {
  const ImageName image{path, "qcow2"};
  std::optional<KeptBitmaps> kept;
  Result<> stored;
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.write = access.keeps_content = true;
    access.below = false;
    Edge* top = co_await session.open(image, access);
    kept.emplace(co_await KeptBitmaps::take(context, image, top->node()));
    const auto emptied = co_await static_cast<Qcow2Driver&>(top->node().driver()).empty().result();
    stored = co_await kept->put_back(top->node()).result();
    co_await unwrap(emptied);
  };
  const auto emptied = co_await in_session<void>(context.reactor, body, context.interrupted).result();
  if (kept) stored = co_await kept->finish(std::move(stored)).result();
  co_await unwrap(emptied);
  co_await unwrap(stored);
}

// One that nobody has written to since it was copied down: `held` for reading since before that.
Task<> empty_held(const Context& context, Session& holding, Edge* held, std::string path, std::optional<ImageName> stands_on) {
  const qcow2::Header header = co_await read_header(context.reactor, path);
  co_await holding.begin_to_write(*held);
  if (stands_on) co_await qcow2::change_backing(*held, stands_on->name, stands_on->format);
  if (!header.geometry.external_data) co_return co_await qcow2::empty_image(*held);
  co_await holding.release(held);                        // its data is another file's, which only its driver knows
  co_await empty_slowly(context, path);
}

Task<ImageCommitted> commit_held(const Context& context, const ImageCommitOptions& options, Session& holding, Edge* held,
                                 const std::vector<ImageName>& chain, std::size_t depth) {
  for (std::size_t layer = 0; layer < depth; ++layer) co_await check_keeps_none(context.reactor, chain[layer]);
  std::uint64_t size_above = 0;
  if (!options.above.empty()) {
    const qcow2::Header header = co_await read_header(context.reactor, options.above);
    size_above = header.size;
  }
  const auto end = chain.begin() + static_cast<std::ptrdiff_t>(depth);
  const image::CopyReport report =
      co_await commit_to(context, std::vector<ImageName>(chain.begin(), end), chain[depth], size_above);
  // An image above others would show what they have.  Who names the base goes on with that one, as with qemu-img.
  const bool emptied = options.stands_on || (!options.keep && depth == 1 && options.base.empty());
  if (emptied) {
    const auto gone = co_await empty_held(context, holding, held, chain[0].name, options.stands_on).result();
    const std::string state = fmt::format("'{}' has all of '{}', which reads as before", chain[depth].name, chain[0].name);
    if (!gone && gone.error().code() == Errc::cancelled) co_await Error(Errc::cancelled, "interrupted; " + state);
    if (!gone) co_await gone.error().with_context(state + " and was not emptied");
  }
  co_return ImageCommitted{chain[depth].name, report.data_bytes, report.zero_bytes, emptied};
}

}  // namespace

Task<ImageCommitted> commit(const Context& context, ImageCommitOptions options) {
  const std::string format = co_await format_of(context.reactor, options.image, false);
  const auto path = local_path(options.image.name);
  if (!path) co_await Error(Errc::unsupported, fmt::format("'{}': only files and block devices can be committed", options.image.name));
  ImageName top{*path, format};
  const std::vector<ImageName> chain = co_await chain_of(context.reactor, top);
  const std::size_t depth = co_await layers_above(context.reactor, chain, options.base);
  std::function<Task<ImageCommitted>(Session&)> body = [&](Session& holding) -> Task<ImageCommitted> {
    const ImageAccess reading;
    Edge* held = co_await holding.open_bytes(*path, reading);
    co_return co_await commit_held(context, options, holding, held, chain, depth);
  };
  co_return co_await in_session<ImageCommitted>(context.reactor, body);
}

Task<Exit> image_commit(const Context& context, ImageCommitOptions options) {
  const std::string name = options.image.name, path = local_path(name).value_or(name);
  const ImageCommitted done = co_await commit(context, std::move(options));
  if (context.json)
    print_json(Json::object({{"filename", path}, {"base", done.base}, {"data-bytes", done.data_bytes}, {"zero-bytes", done.zero_bytes},
                             {"emptied", done.emptied}}));
  else
    print_line(fmt::format("committed {} of '{}' to '{}'", human_size(done.data_bytes + done.zero_bytes), path, done.base));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
