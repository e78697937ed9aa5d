#include "block/checkpoints.hpp"

#include <algorithm>
#include <charconv>

namespace tidemark {
namespace {

constexpr std::string_view prefix = "checkpoint:";
constexpr std::size_t name_max = 512;
constexpr std::uint64_t taken_max = std::uint64_t{1} << 62;

}  // namespace

std::string CheckpointName::bitmap() const { return std::string(prefix) + std::to_string(taken) + ":" + name; }

std::optional<CheckpointName> checkpoint_of(std::string_view bitmap) {
  if (!bitmap.starts_with(prefix)) return std::nullopt;
  const std::string_view rest = bitmap.substr(prefix.size());
  CheckpointName found{};
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), found.taken);
  const auto digits = static_cast<std::size_t>(end - rest.data());
  if (error != std::errc() || found.taken > taken_max || digits + 1 >= rest.size() || rest[digits] != ':') return std::nullopt;
  found.name = rest.substr(digits + 1);
  return found;
}

Result<> check_checkpoint_name(const std::string& name) {
  if (name.empty()) return Error(Errc::invalid_argument, "Checkpoint name cannot be empty");
  if (name.size() > name_max) return Error(Errc::invalid_argument, "Checkpoint name too long: " + name);
  return {};
}

std::vector<Checkpoint> checkpoints_in(const NodeBitmaps& bitmaps) {
  std::vector<Checkpoint> found;
  for (const auto& bitmap : bitmaps.all())
    if (auto name = checkpoint_of(bitmap->name())) found.push_back({*std::move(name), bitmap.get()});
  std::ranges::stable_sort(found, {}, [](const Checkpoint& checkpoint) { return checkpoint.name.taken; });
  return found;
}

std::vector<Checkpoint>::const_iterator find_checkpoint(const std::vector<Checkpoint>& all, std::string_view name) {
  const auto named = [&](const Checkpoint& checkpoint) { return checkpoint.name.name == name; };
  const auto last = std::find_if(all.rbegin(), all.rend(), named);
  return last == all.rend() ? all.end() : std::prev(last.base());
}

namespace {

constexpr const char* unrecorded = "what was written since is not known: its bitmap, or that of a newer one, was disabled or removed";

}  // namespace

void end_older(NodeBitmaps& bitmaps) {
  bool newer_records = false;
  const auto all = checkpoints_in(bitmaps);
  if (!all.empty() && !all.back().bitmap->enabled() && !all.back().bitmap->inconsistent())
    all.back().bitmap->set_inconsistent(unrecorded);
  for (auto at = all.rbegin(); at != all.rend(); ++at) {
    NodeBitmap& bitmap = *at->bitmap;
    if (!bitmap.enabled() || bitmap.inconsistent()) continue;
    if (newer_records) bitmap.set_enabled(false);
    newer_records = true;
  }
}

Result<DirtyBitmap> written_since(const std::vector<Checkpoint>& all, std::vector<Checkpoint>::const_iterator from) {
  if (const Checkpoint& newest = all.back(); !newest.bitmap->enabled() && !newest.bitmap->inconsistent())
    return Error(Errc::corrupt, "Checkpoint '" + newest.name.name + "' does not record: " + unrecorded);
  std::uint64_t grain = from->bitmap->granularity();
  for (auto at = from; at != all.end(); ++at) {
    grain = std::min(grain, at->bitmap->granularity());
    if (at->bitmap->inconsistent())
      return Error(Errc::corrupt, "Checkpoint '" + at->name.name + "' is inconsistent: " + at->bitmap->inconsistent_reason());
  }
  DirtyBitmap written(from->bitmap->bits().size(), grain);
  for (auto at = from; at != all.end(); ++at) {
    written.merge(at->bitmap->bits());
    if (at->bitmap->successor()) written.merge(*at->bitmap->successor());
  }
  return written;
}

}  // namespace tidemark
