// A new file appears under its name when it is whole.  What is written in place - a device, an export, an image that
// exists - has zeroes at its start until all the rest is durable, so that half of it does not look like a disk.  So it must
// not be what the source is read from.
#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/data_file.hpp"
#include "app/cli/image/kept_bitmaps.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/image/shared_bytes.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "app/new_file.hpp"
#include "format/raw/raw.hpp"
#include "image/copy.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

using image::CopyOptions;
using image::CopyReport;

constexpr std::uint64_t start_bytes = 2 * MiB;           // a multiple of every cluster size

struct Source {
  Edge* disk = nullptr;
  std::uint64_t at = 0;                                  // in the target
};

// All of a file, as it is.
bool shows_file(const BlockNode& node) {
  const std::string_view driver = node.driver().name();
  if (driver == "file" || driver == "host_device") return true;
  if (driver != "raw") return false;
  const auto& raw = static_cast<const RawDriver&>(node.driver());
  return raw.options().offset == 0 && !raw.options().size && shows_file(raw.edges()[0]->node());
}

Task<bool> holds_file(Reactor& reactor, BlockNode& node, std::string path) {
  const ImageInfo info = co_await node.driver().info();
  co_return co_await is_same_file(reactor, info.filename, std::move(path));
}

// Whether a node reads what these files do: each in its format, the last one with nothing below.
Task<bool> reads_as(Reactor& reactor, BlockNode* node, std::vector<ImageName> chain) {
  for (const ImageName& layer : chain) {
    if (!node) co_return false;
    const bool is_qcow2 = node->driver().name() == "qcow2";
    if (is_qcow2 != (layer.format == "qcow2")) co_return false;
    const Edge* file = node->child(Role::file);
    if (!shows_file(is_qcow2 ? file->node() : *node)) co_return false;
    const bool same = co_await holds_file(reactor, *node, layer.name);
    if (!same) co_return false;
    node = node->backing();
  }
  co_return !node;
}

// The bitmaps of a target that is there, once it is open, and whether they are in it again.
struct OwnBitmaps {
  std::optional<KeptBitmaps> kept;
  Result<> stored;
};

// What becomes of bitmaps: the target's own, and the source's, which it is to have, too.  Null: none do.
struct Bitmaps {
  OwnBitmaps* own = nullptr;
  KeptBitmaps* more = nullptr;
};

class Convert {
 public:
  // `begun`: the target is not as it was any more.
  Convert(const Context& context, const ImageConvertOptions& options, Session& session, bool& begun)
      : context_(context), options_(options), session_(session), progress_(context, "convert"), begun_(begun) {}

  Task<> open_sources() {
    ImageAccess access;
    access.force_share = options_.force_share;
    access.direct = options_.direct;
    for (const std::string& name : options_.sources) {
      ImageName source{name, options_.source_format, options_.snapshot};
      Edge* disk = co_await session_.open(std::move(source), access);
      sources_.push_back({disk, size_});
      size_ += disk->size();
    }
  }
  std::uint64_t size() const noexcept { return size_; }
  const CopyReport& report() const noexcept { return report_; }

  // The layer of the source that the target will stand on.  What is left out of the target is what that layer reads, so that it must be
  // what the target's backing file will read.
  Task<> find_base(std::vector<ImageName> chain) {
    if (sources_.size() != 1) co_await Error(Errc::invalid_argument, "Having a backing file for the target makes no sense when "
                                                                     "concatenating multiple input images");
    const std::string& path = chain[0].name;
    bool is_below = false;
    for (BlockNode* layer = sources_[0].disk->node().backing(); layer && !base_; layer = layer->backing()) {
      const bool same = co_await holds_file(session_.reactor(), *layer, path);
      if (!same) continue;
      is_below = true;
      const bool alike = co_await reads_as(session_.reactor(), layer, chain);
      if (alike) base_ = layer;
    }
    if (base_) co_return;
    if (!is_below) co_await Error(Errc::invalid_argument, fmt::format("'{}' is not below '{}'", path, options_.sources[0]));
    co_await Error(Errc::invalid_argument, fmt::format("'{}' is below '{}' in another format, or over something else, and does not read "
                                                       "as it does there", path, options_.sources[0]));
  }

  // What is written in place loses its start before the source is read.
  Task<> check_apart(std::string target) {
    std::vector<std::string> files;
    for (const auto& node : session_.graph().nodes()) {
      const bool is_file = node->driver().name() == "file" || node->driver().name() == "host_device";
      if (is_file) files.push_back((co_await node->driver().info()).filename);
    }
    for (const std::string& file : files) {
      const bool shared = co_await share_bytes(session_.reactor(), file, target);
      if (shared) co_await is_source(file);
    }
  }

  // The same for what is no file: a header would be written to it before anything else.
  Task<> check_other(std::string target) {
    ImageAccess access;
    access.write = true;
    ImageName raw{std::move(target), "raw"};
    Edge* there = co_await session_.open(std::move(raw), access);
    const Range start{0, align_down(std::min({start_bytes, size_, there->size()}), sector_size)};
    if (!start.empty()) co_await clear_start(*there, start);
    co_await session_.release(there);
    begun_ = true;
  }

  struct Target {
    ImageName name;
    bool is_zero = false, in_place = false;
    bool stands = false;                   // it is new, and reads as the base that the source stands on, too
    std::string data_file = {};
    Bitmaps bitmaps = {};                  // of one that is there
  };
  Task<> copy_to(Target into) {
    ImageAccess access;
    access.write = true;
    access.direct = options_.direct;
    access.data_file = into.data_file;
    access.keeps_content = into.bitmaps.own != nullptr;
    Edge* target = co_await session_.open(into.name, access);
    const auto copied = co_await copy_into(*target, into).result();
    const auto released = co_await session_.release(target).result();      // what was made, and has failed, is used by nobody then
    co_await unwrap(copied);
    co_await unwrap(released);
  }

 private:
  Task<> is_source(const std::string& file) {
    co_await Error(Errc::invalid_argument, fmt::format("'{}' is, or holds, '{}', which the source is read from; choose another target",
                                                       options_.target, file));
  }

  Task<> copy_into(Edge& target, const Target& into) {
    if (target.size() < size_)
      co_await Error(Errc::no_space, fmt::format("'{}' has {} bytes, the source has {}", options_.target, target.size(), size_));
    if (options_.compress && !target.node().driver().supports_compression())
      co_await Error(Errc::invalid_argument, "Compression not supported for this file format");
    if (!into.bitmaps.own) co_return co_await fill(target, into);
    auto& [kept, stored] = *into.bitmaps.own;
    kept.emplace(co_await KeptBitmaps::take(context_, into.name, target.node()));
    auto filled = co_await fill(target, into).result();
    if (filled && into.bitmaps.more) filled = kept->add(std::move(*into.bitmaps.more), options_.skip_broken_bitmaps);
    stored = co_await kept->put_back(target.node()).result();
    co_await unwrap(filled);
  }

  Task<> fill(Edge& target, const Target& into) {
    const Range all{0, size_};
    if (into.in_place) co_await copy_in_place(target, into);
    else co_await copy(target, all, into.is_zero);
    co_await target.flush();
  }

  // The start, by which it would be taken for whole, comes last.
  Task<> copy_in_place(Edge& target, const Target& into) {
    const Range start{0, std::min(start_bytes, size_)};
    if (!into.is_zero && !into.stands) co_await clear_start(target, start);
    const Range rest{start.end(), size_ - start.end()};
    co_await copy(target, rest, into.is_zero);
    co_await target.flush();
    co_await copy(target, start, !into.stands);
  }

  // Servers and mappings do not say what they show: whether the source loses what the target does, and gets it back, is looked at.
  // Others may write to the source meanwhile.
  Task<> clear_start(Edge& target, Range start) {
    AlignedBuffer before(start.length), source(start.length), after(start.length), back(start.length);
    co_await target.read(0, before.bytes());
    co_await read_sources(source.bytes());
    const auto clear = [&]() -> Task<> {
      begun_ = true;
      co_await target.write_zeroes(start);
      co_await target.flush();
    };
    auto cleared = co_await clear().result();
    if (cleared) cleared = co_await read_sources(after.bytes()).result();
    if (cleared && !loses(source.bytes(), after.bytes(), source.bytes())) co_return;
    co_await target.write(0, before.bytes());
    co_await target.flush();
    begun_ = false;
    co_await unwrap(cleared);
    co_await read_sources(back.bytes());
    if (loses(source.bytes(), after.bytes(), back.bytes())) co_await is_source(options_.sources[0]);
    co_await clear();
  }
  // A sector that was zeroes for a while.
  static bool loses(Bytes before, Bytes after, Bytes back) {
    for (std::size_t at = 0; at < before.size(); at += sector_size) {
      const auto sector = [at](Bytes all) { return all.subspan(at, std::min<std::size_t>(sector_size, all.size() - at)); };
      const bool same = std::ranges::equal(sector(before), sector(back));
      if (same && is_zero(sector(after)) && !is_zero(sector(before))) return true;
    }
    return false;
  }

  Task<> read_sources(MutableBytes into) {
    for (const Source& source : sources_) {
      const Range part = Range{0, into.size()}.intersect({source.at, source.disk->size()});
      if (part.empty()) continue;
      co_await source.disk->read(part.offset - source.at, into.subspan(part.offset, part.length));
    }
  }

  Task<> copy(Edge& target, Range area, bool is_zero) {
    for (const Source& source : sources_) {
      const Range part = area.intersect({source.at, source.disk->size()});
      if (part.empty()) continue;
      CopyOptions copy;
      copy.course.interrupted = context_.interrupted;
      copy.course.speed = options_.speed;
      if (options_.workers != 0) copy.course.workers = options_.workers;
      const std::uint64_t before = done_;
      copy.course.progress = [this, before](std::uint64_t done) { progress_.update(done_ = before + done, size_); };
      copy.base = base_;
      copy.target_offset = part.offset;
      copy.sparse = options_.sparse;
      copy.target_is_zero = is_zero;
      copy.compress = options_.compress;
      const Range from{part.offset - source.at, part.length};
      begun_ = true;
      const CopyReport report = co_await image::copy_disk(*source.disk, from, target, std::move(copy));
      report_.data_bytes += report.data_bytes;
      report_.zero_bytes += report.zero_bytes;
      report_.skipped_bytes += report.skipped_bytes;
    }
  }

  const Context& context_;
  const ImageConvertOptions& options_;
  Session& session_;
  Progress progress_;
  std::vector<Source> sources_;
  std::uint64_t size_ = 0, done_ = 0;
  BlockNode* base_ = nullptr;
  CopyReport report_;
  bool& begun_;
};

// Into a new image.
Task<> copy_bitmaps(const Context& context, const ImageConvertOptions& options, Bitmaps bitmaps, std::string target) {
  if (!bitmaps.more) co_return;
  ImageName image{std::move(target), "qcow2"};
  KeptBitmaps to = co_await KeptBitmaps::load(context, std::move(image));
  co_await unwrap(to.add(std::move(*bitmaps.more), options.skip_broken_bitmaps));
  co_await to.store();
}

Task<> into_new(const Context& context, const ImageConvertOptions& options, FormatOptions format, Convert& convert,
                Bitmaps bitmaps) {
  Reactor& reactor = context.reactor;
  const bool file = co_await is_file_name(reactor, options.target), below = !format.qcow2.backing_file.empty();
  if (!file) {
    if (const auto device = local_path(options.target)) co_await convert.check_apart(*device);
    if (options.target_format != "raw") co_await convert.check_other(options.target);
    co_await make_image_on(reactor, options.target, options.target_format, format);
    Convert::Target target{{options.target, options.target_format}, (options.target_format == "qcow2" && !below) || options.target_is_zero,
                           true, below};
    co_await convert.copy_to(std::move(target));
    co_return co_await copy_bitmaps(context, options, bitmaps, options.target);
  }
  const DataFile data = co_await place_data_file(reactor, options.target, format.qcow2.data_file);
  format.qcow2.data_file = data.stored;
  std::function<Task<>(std::string, std::string)> both = [&](std::string partial, std::string partial_data) -> Task<> {
    co_await make_image(reactor, partial, options.target_format, format, partial_data);
    Convert::Target target{{partial, options.target_format}, !below, false, below, std::move(partial_data)};
    co_await convert.copy_to(std::move(target));
    co_await copy_bitmaps(context, options, bitmaps, std::move(partial));
  };
  auto one = [&](std::string partial) -> Task<> { return both(std::move(partial), {}); };
  if (data.path.empty()) co_await make_file(reactor, *local_path(options.target), one);
  else co_await make_with_data_file(reactor, *local_path(options.target), data, both);
}

Task<> run_convert(const Context& context, const ImageConvertOptions& options, FormatOptions format, Convert& convert,
                   Bitmaps bitmaps) {
  co_await convert.open_sources();
  if (options.target_exists) {
    if (const auto path = local_path(options.target)) co_await convert.check_apart(*path);
    Convert::Target target{{options.target, options.target_format}, options.target_is_zero, true, false, {}, bitmaps};
    co_return co_await convert.copy_to(std::move(target));
  }
  format.qcow2.size = align_up(convert.size(), sector_size);
  format.qcow2.interrupted = context.interrupted;
  if (!format.qcow2.backing_file.empty()) {
    const std::string image = local_path(options.target).value_or(std::string());
    const ImageName below = co_await check_backing(context.reactor, image, format.qcow2.backing_file, format.qcow2.backing_format);
    const std::vector<ImageName> chain = co_await chain_of(context.reactor, below);
    co_await unwrap(check_none_alone(chain));            // the source's layers below it would be missing
    co_await convert.find_base(chain);
  }
  co_await into_new(context, options, std::move(format), convert, bitmaps);
}

Task<KeptBitmaps> bitmaps_of_source(const Context& context, const ImageConvertOptions& options) {
  ImageName source{options.sources[0], options.source_format};
  source.format = co_await format_of(context.reactor, source, false);
  if (source.format != "qcow2") co_await Error(Errc::invalid_argument, "--bitmaps is for one qcow2 image that becomes another");
  KeptBitmaps kept = co_await KeptBitmaps::load(context, std::move(source), options.force_share);
  if (!options.skip_broken_bitmaps) co_await unwrap(kept.check_consistent());
  co_return std::move(kept);
}

// A target that is there keeps its bitmaps, which record what is written, and gets the source's if they are wanted.
Task<> with_bitmaps(const Context& context, const ImageConvertOptions& options, std::function<Task<>(Bitmaps)> convert) {
  Bitmaps bitmaps;
  std::optional<KeptBitmaps> more;
  if (options.bitmaps) {
    KeptBitmaps loaded = co_await bitmaps_of_source(context, options);
    more = std::move(loaded);
    bitmaps.more = &*more;
  }
  if (!options.target_exists || options.target_format != "qcow2") co_return co_await convert(bitmaps);
  if (more) {                                            // before anything is written
    ImageName target{options.target, options.target_format};
    const KeptBitmaps there = co_await KeptBitmaps::load(context, std::move(target));
    co_await unwrap(there.check_room_for(*more, options.skip_broken_bitmaps));
  }
  OwnBitmaps own;
  bitmaps.own = &own;
  const auto converted = co_await convert(bitmaps).result();
  if (own.kept) own.stored = co_await own.kept->finish(std::move(own.stored)).result();
  co_await unwrap(converted);
  co_await unwrap(own.stored);
}

Result<FormatOptions> format_options(const ImageConvertOptions& options) {
  auto format = parse_format_options(options.target_format, options.format_options);
  if (!format) return format;
  if (!options.backing.empty()) format->qcow2.backing_file = options.backing;
  if (!options.backing_format.empty()) format->qcow2.backing_format = options.backing_format;
  if (options.target_format == "raw" && !format->qcow2.backing_file.empty())
    return Error(Errc::invalid_argument, "Backing file not supported for file format 'raw'");
  if (!options.snapshot.empty() && options.sources.size() != 1)
    return Error(Errc::invalid_argument, "No support for concatenating multiple snapshot");
  if (!options.snapshot.empty() && options.bitmaps)
    return Error(Errc::invalid_argument, "--bitmaps are those of the disk as it is, not of a snapshot");
  if (options.target_format == "raw" && options.compress)
    return Error(Errc::invalid_argument, "Compression not supported for this file format");
  if (options.bitmaps && (options.target_format != "qcow2" || options.sources.size() != 1))
    return Error(Errc::invalid_argument, "--bitmaps is for one qcow2 image that becomes another");
  if (options.bitmaps && !options.target_exists && format->qcow2.version < 3)
    return Error(Errc::unsupported, "Cannot store dirty bitmaps in qcow2 v2 files");
  if (options.compress && format->qcow2.preallocation != Qcow2Preallocation::off)
    return Error(Errc::invalid_argument, "Compression and preallocation not supported at the same time");
  if (options.compress && !format->qcow2.data_file.empty())
    return Error(Errc::invalid_argument, "Compression is not supported with an external data file");
  if (options.target_exists && (!options.format_options.empty() || !options.backing.empty()))
    return Error(Errc::invalid_argument, "options of a new image make no sense with --existing");
  return format;
}

Error explained(const Error& error, const ImageConvertOptions& options, bool file, bool begun) {
  if (error.code() != Errc::cancelled) return error;
  if (file && !options.target_exists) return Error(Errc::cancelled, "interrupted; nothing was left behind");
  if (!begun) return Error(Errc::cancelled, fmt::format("interrupted; '{}' is as it was", options.target));
  return Error(Errc::cancelled, fmt::format("interrupted; '{}' is incomplete, and begins with zeroes", options.target));
}

}  // namespace

Task<ImageConverted> convert(const Context& context, ImageConvertOptions options) {
  const FormatOptions format = co_await unwrap(format_options(options));
  ImageConverted done;
  bool begun = false;
  Bitmaps bitmaps;
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    Convert convert(context, options, session, begun);
    co_await run_convert(context, options, format, convert, bitmaps);
    const CopyReport& report = convert.report();
    done = {convert.size(), report.data_bytes, report.zero_bytes, report.skipped_bytes};
  };
  std::function<Task<>(Bitmaps)> run = [&](Bitmaps given) -> Task<> {
    bitmaps = given;
    return in_session<void>(context.reactor, body, context.interrupted);
  };
  const bool file = co_await is_file_name(context.reactor, options.target);
  auto converted = co_await with_bitmaps(context, options, std::move(run)).result();
  if (!converted) co_await explained(converted.error(), options, file, begun);
  co_return done;
}

Task<Exit> image_convert(const Context& context, ImageConvertOptions options) {
  const Instant started = context.reactor.now();
  const ImageConverted done = co_await convert(context, options);
  const double seconds = std::chrono::duration<double>(context.reactor.now() - started).count();
  if (context.json)
    print_json(Json::object({{"filename", options.target}, {"format", options.target_format}, {"virtual-size", done.size},
                             {"data-bytes", done.data_bytes}, {"zero-bytes", done.zero_bytes},
                             {"backing-bytes", done.backing_bytes}, {"seconds", seconds}}));
  else
    print_line(fmt::format("wrote '{}': {}, {}, {} of it data, {}", options.target, options.target_format, human_size(done.size),
                           human_size(done.data_bytes), human_duration(seconds)));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
