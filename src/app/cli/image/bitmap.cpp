// All steps are made in memory, and what comes of them is stored at once: either all have been made or none.
#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/session.hpp"

namespace tidemark::cli {
namespace {

using Action = ImageBitmapOptions::Action;
using qcow2::BitmapEntry;

Error not_found(const std::string& name) { return Error(Errc::not_found, fmt::format("Dirty bitmap '{}' not found", name)); }

Qcow2Bitmap* find(std::vector<Qcow2Bitmap>& bitmaps, const std::string& name) {
  const auto found = std::find_if(bitmaps.begin(), bitmaps.end(), [&](const Qcow2Bitmap& b) { return b.entry.name == name; });
  return found == bitmaps.end() ? nullptr : &*found;
}

Task<std::vector<Qcow2Bitmap>> all_of(Qcow2Driver& image) {
  std::vector<BitmapEntry> entries = co_await image.bitmap_entries();
  std::vector<Qcow2Bitmap> bitmaps;
  for (BitmapEntry& entry : entries) bitmaps.push_back({std::move(entry), std::nullopt});
  co_return std::move(bitmaps);
}

class Editor {
 public:
  Editor(Session& session, Qcow2Driver& image, const ImageBitmapOptions& options)
      : session_(session), image_(image), options_(options) {}

  Task<> run() {
    bitmaps_ = co_await all_of(image_);
    for (const ImageBitmapOptions::Step& step : options_.steps) co_await make(step);
    co_await image_.store_bitmaps(std::move(bitmaps_));
  }

 private:
  Task<> make(const ImageBitmapOptions::Step& step) {
    if (step.action == Action::add) co_return co_await unwrap(add());
    Qcow2Bitmap* bitmap = find(bitmaps_, options_.name);
    if (!bitmap) co_await not_found(options_.name);
    if (step.action == Action::remove) {
      std::erase_if(bitmaps_, [&](const Qcow2Bitmap& b) { return b.entry.name == options_.name; });
      co_return;
    }
    if (step.action == Action::rebuild) co_return rebuild(*bitmap);
    if (!bitmap->bits) {
      DirtyBitmap loaded = co_await image_.load_bitmap(bitmap->entry);
      bitmap->bits = std::move(loaded);
    }
    switch (step.action) {
      case Action::clear: bitmap->bits->clear_all(); break;
      case Action::enable: bitmap->entry.flags |= BitmapEntry::auto_flag; break;
      case Action::disable: bitmap->entry.flags &= ~BitmapEntry::auto_flag; break;
      case Action::merge: co_await merge(*bitmap, step.source); break;
      default: break;
    }
  }

  Result<> add() {
    if (find(bitmaps_, options_.name)) return Error(Errc::exists, fmt::format("Bitmap already exists: {}", options_.name));
    const std::uint64_t granularity = options_.granularity != 0 ? options_.granularity : default_granularity();
    if (!is_power_of_two(granularity)) return Error(Errc::invalid_argument, "Granularity must be power of 2");
    Qcow2Bitmap bitmap;
    bitmap.entry.name = options_.name;
    bitmap.entry.granularity_bits = log2_of(granularity);
    bitmap.entry.flags = BitmapEntry::auto_flag;
    if (auto ok = qcow2::check_bitmap_entry(bitmap.entry, image_.size()); !ok) return ok;
    bitmap.bits.emplace(image_.size(), granularity);
    bitmaps_.push_back(std::move(bitmap));
    return {};
  }
  std::uint64_t default_granularity() const { return std::max<std::uint64_t>(4096, image_.limits().opt_transfer); }

  // Whatever may have changed is dirty: nothing that it was to remember is lost.
  void rebuild(Qcow2Bitmap& bitmap) {
    bitmap.entry.flags &= ~BitmapEntry::in_use_flag;
    bitmap.bits.emplace(image_.size(), std::uint64_t{1} << bitmap.entry.granularity_bits);
    bitmap.bits->set_all();
  }

  Task<> merge(Qcow2Bitmap& into, std::string name) {
    const bool elsewhere = !options_.source_image.name.empty();
    Qcow2Driver* image = &image_;
    if (elsewhere) {
      Qcow2OpenOptions reading;
      reading.read_only = true;
      image = co_await session_.open_qcow2(options_.source_image.name, reading);
    }
    std::vector<Qcow2Bitmap> others = co_await all_of(*image);
    Qcow2Bitmap* other = find(elsewhere ? others : bitmaps_, name);
    if (!other) co_await not_found(name);
    std::optional<DirtyBitmap> loaded;
    if (!other->bits) {
      DirtyBitmap read = co_await image->load_bitmap(other->entry);
      loaded = std::move(read);
    }
    const DirtyBitmap& bits = other->bits ? *other->bits : *loaded;
    if (bits.size() != into.bits->size())
      co_await Error(Errc::invalid_argument, fmt::format("Bitmaps are of different sizes (destination size is {} and source size is {}) "
                                                         "and can't be merged", into.bits->size(), bits.size()));
    into.bits->merge(bits);
  }

  Session& session_;
  Qcow2Driver& image_;
  const ImageBitmapOptions& options_;
  std::vector<Qcow2Bitmap> bitmaps_;
};

}  // namespace

Task<Exit> image_bitmap(const Context& context, ImageBitmapOptions options) {
  if (options.steps.empty())
    co_await Error(Errc::invalid_argument, "Need at least one of --add, --remove, --clear, --enable, --disable, --merge, --rebuild");
  auto has = [&](Action action) {
    return std::any_of(options.steps.begin(), options.steps.end(), [=](const auto& step) { return step.action == action; });
  };
  if (options.granularity != 0 && !has(Action::add))
    co_await Error(Errc::invalid_argument, "granularity only supported with --add");
  if (!options.source_image.name.empty() && !has(Action::merge))
    co_await Error(Errc::invalid_argument, "Merge bitmap source only supported with --merge");
  const std::string format = co_await format_of(context.reactor, options.image, false);
  if (format != "qcow2") co_await Error(Errc::unsupported, fmt::format("'{}': only qcow2 images hold bitmaps", options.image.name));
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    Qcow2OpenOptions open;
    open.keeps_content = true;
    Qcow2Driver* image = co_await session.open_qcow2(options.image.name, open);
    Editor editor(session, *image, options);
    co_await editor.run();
  };
  co_await in_session<void>(context.reactor, body, context.interrupted);
  if (context.json) print_json(Json::object());
  co_return Exit::ok;
}

}  // namespace tidemark::cli
