#include "format/qcow2/layout/header_edit.hpp"

#include <algorithm>

#include "io/aligned.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t end_mark = 8;

}  // namespace

Task<HeaderEdit> HeaderEdit::read(Edge& file) {
  AlignedBuffer sector(std::min<std::uint64_t>(file.size(), sector_size));
  co_await file.read(0, Buffers(sector.bytes()));
  HeaderEdit edit;
  edit.cluster_.resize(co_await unwrap(first_cluster_size(sector.bytes())));
  const Buffers all{MutableBytes(edit.cluster_)};
  const std::uint64_t there = std::min<std::uint64_t>(file.size(), all.size());
  co_await file.read(0, all.first(there));
  edit.header_ = co_await unwrap(parse_header(Bytes(edit.cluster_).first(there), file.size()));
  edit.before_ = edit.cluster_;
  edit.parse();
  co_return std::move(edit);
}

// parse_header() has found the extensions and the name to lie within the cluster.
void HeaderEdit::parse() {
  const std::byte* cluster = cluster_.data();
  const std::uint64_t name_at = load_be<std::uint64_t>(cluster + 8);
  if (name_at != 0) old_name_ = {name_at, load_be<std::uint32_t>(cluster + 16)};
  name_at_ = name_at;
  name_ = header_.backing_name;
  autoclear_ = header_.autoclear;
  const std::uint64_t end = name_at != 0 ? name_at : cluster_.size();
  for (std::uint64_t at = header_.header_length; at + 8 <= end;) {
    const auto type = load_be<std::uint32_t>(cluster + at);
    const std::uint64_t length = load_be<std::uint32_t>(cluster + at + 4);
    if (type == 0) break;
    extensions_.push_back({type, {cluster + at + 8, cluster + at + 8 + length}});
    at += 8 + align_up(length, 8);
  }
}

void HeaderEdit::set_extension(ExtensionType type, std::optional<std::vector<std::byte>> data) {
  const auto number = static_cast<std::uint32_t>(type);
  const auto found = std::find_if(extensions_.begin(), extensions_.end(), [&](const Extension& e) { return e.type == number; });
  if (found != extensions_.end()) {
    if (data) found->data = *std::move(data);
    else extensions_.erase(found);
  } else if (data) {
    const auto place = type == ExtensionType::backing_format ? extensions_.begin() : extensions_.end();
    extensions_.insert(place, {number, *std::move(data)});
  }
}

std::vector<std::byte> HeaderEdit::extensions() const {
  std::vector<std::byte> all;
  for (const Extension& extension : extensions_) {
    std::byte head[8];
    store_be(head, extension.type);
    store_be(head + 4, static_cast<std::uint32_t>(extension.data.size()));
    all.insert(all.end(), head, head + 8);
    all.insert(all.end(), extension.data.begin(), extension.data.end());
    all.resize(align_up(all.size(), 8));
  }
  all.resize(all.size() + end_mark);
  return all;
}

// Where it is, when it is the same and nothing comes in its way; else beside the old one, which stays readable until the
// header points at the new one.
Result<> HeaderEdit::place_name(std::uint64_t behind) {
  const Error too_long(Errc::invalid_argument, "Backing file name too long");
  if (name_.size() > name_bytes_max || behind > cluster_.size()) return too_long;
  if (name_.empty()) {
    name_at_ = 0;
    return {};
  }
  const bool same = name_ == header_.backing_name && old_name_.offset >= behind;
  if (same) return {};
  const Range first{behind, name_.size()};
  const std::uint64_t after = std::max(behind, align_up(old_name_.end(), 8));
  name_at_ = first.overlaps(old_name_) && fits(after, name_.size(), cluster_.size()) ? after : behind;
  if (!fits(name_at_, name_.size(), cluster_.size())) return too_long;
  return {};
}

Task<> HeaderEdit::write_cluster(Edge& file) {
  const Buffers all{MutableBytes(cluster_)};
  if (all.size() > sector_size) {
    co_await file.write(sector_size, all.from(sector_size));
    co_await file.flush();
  }
  co_await file.write(0, all.first(sector_size));
  co_await file.flush();
}

// Alone, before extensions grow to where it was.
Task<> HeaderEdit::move_name(Edge& file) {
  std::copy_n(as_bytes(name_).data(), name_.size(), cluster_.begin() + static_cast<std::ptrdiff_t>(name_at_));
  store_be(cluster_.data() + 8, name_at_);
  store_be(cluster_.data() + 16, static_cast<std::uint32_t>(name_.size()));
  co_await write_cluster(file);
}

Task<> HeaderEdit::write(Edge& file) {
  const std::vector<std::byte> area = extensions();
  const std::uint64_t at = header_.header_length, behind = at + area.size();
  co_await unwrap(place_name(behind));
  if (!old_name_.empty() && !name_.empty() && old_name_.offset < behind) co_await move_name(file);
  std::copy(area.begin(), area.end(), cluster_.begin() + static_cast<std::ptrdiff_t>(at));
  std::copy_n(as_bytes(name_).data(), name_.size(), cluster_.begin() + static_cast<std::ptrdiff_t>(name_at_));
  store_be(cluster_.data() + 8, name_at_);
  store_be(cluster_.data() + 16, static_cast<std::uint32_t>(name_.size()));
  if (header_.geometry.version >= 3) store_be(cluster_.data() + HeaderField::autoclear, autoclear_);
  co_await write_cluster(file);
}

Task<> HeaderEdit::restore(Edge& file) {
  const Buffers all{MutableBytes(before_)};
  co_await file.write(0, all);
}

}  // namespace tidemark::qcow2
