// blkdebug's names, and its configuration file: an INI file as QEMU's -readconfig takes them, where what follows a key is
// = "VALUE", or counts as empty.
#include <algorithm>
#include <charconv>
#include <limits>

#include "filter/blkdebug.hpp"

namespace tidemark {
namespace {

constexpr std::string_view event_names[] = {
    "l1_update", "l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l2_load", "l2_update",
    "l2_update_compressed", "l2_alloc_cow_read", "l2_alloc_write", "read_aio", "read_backing_aio", "read_compressed", "write_aio",
    "write_compressed", "vmstate_load", "vmstate_save", "cow_read", "cow_write", "reftable_load", "reftable_grow", "reftable_update",
    "refblock_load", "refblock_update", "refblock_update_part", "refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write",
    "refblock_alloc_write_blocks", "refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc",
    "cluster_alloc_bytes", "cluster_free", "flush_to_os", "flush_to_disk", "pwritev_rmw_head", "pwritev_rmw_after_head",
    "pwritev_rmw_tail", "pwritev_rmw_after_tail", "pwritev", "pwritev_zero", "pwritev_done", "empty_image_prepare",
    "l1_shrink_write_table", "l1_shrink_free_l2_clusters", "cor_write", "cluster_alloc_space", "none"};
static_assert(std::size(event_names) == static_cast<std::size_t>(DebugEvent::none) + 1);

constexpr std::string_view kind_names[] = {"read", "write", "write-zeroes", "discard", "flush", "block-status"};

template <class Enum, std::size_t n>
std::optional<Enum> find(const std::string_view (&names)[n], std::string_view name) noexcept {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) return std::nullopt;
  return static_cast<Enum>(found - std::begin(names));
}

Error invalid(std::string what) { return Error(Errc::invalid_argument, std::move(what)); }

constexpr std::string_view blanks = " \t\r";

std::string_view trimmed(std::string_view text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
  while (!text.empty() && blanks.find(text.back()) != std::string_view::npos) text.remove_suffix(1);
  return text;
}

std::string_view quoted(std::string_view text) noexcept {
  text = trimmed(text);
  if (!text.starts_with('=')) return {};
  text = trimmed(text.substr(1));
  if (!text.starts_with('"')) return {};
  text.remove_prefix(1);
  return text.substr(0, text.find('"'));
}

// A section, as it is read.
struct Section {
  std::string name;
  BlkdebugRule rule;
  bool has_event = false;

  Result<> set(std::string_view key, std::string_view value);
  Result<> set_error(std::string_view key, std::string_view value);
};

Result<std::int64_t> number(std::string_view key, std::string_view value) {
  const bool hex = value.starts_with("0x");
  const std::string_view digits = hex ? value.substr(2) : value;
  std::int64_t parsed = 0;
  const auto end = std::from_chars(digits.data(), digits.data() + digits.size(), parsed, hex ? 16 : 10);
  if (end.ec != std::errc{} || end.ptr != digits.data() + digits.size())
    return invalid("Parameter '" + std::string(key) + "' expects a number");
  return parsed;
}

Result<bool> on_or_off(std::string_view key, std::string_view value) {
  if (value == "on" || value == "off") return value == "on";
  return invalid("Parameter '" + std::string(key) + "' expects 'on' or 'off'");
}

Result<> Section::set(std::string_view key, std::string_view value) {
  if (key == "event") {
    const auto event = debug_event_of(value);
    if (!event) return invalid("invalid parameter value: " + std::string(value));
    rule.event = *event;
    has_event = true;
    return {};
  }
  if (name == "inject-error" && (key == "once" || key == "immediately" || key == "iotype")) return set_error(key, value);
  const bool own = name == "inject-error" ? key == "errno" || key == "sector" : key == "new_state";
  if (key != "state" && !own) return invalid("Invalid parameter '" + std::string(key) + "'");
  const auto parsed = number(key, value);
  if (!parsed) return parsed.error();
  if (key == "state") rule.state = *parsed;
  else if (key == "new_state") rule.new_state = *parsed;
  else if (key == "errno") return rule.error.set_errno(*parsed);
  else rule.error.set_sector(*parsed);
  return {};
}

Result<> Section::set_error(std::string_view key, std::string_view value) {
  if (key == "iotype") {
    const auto kind = request_kind_of(value);
    if (!kind) return invalid("invalid parameter value: " + std::string(value));
    rule.error.kinds = static_cast<std::uint8_t>(1u << static_cast<unsigned>(*kind));
    return {};
  }
  const auto is_on = on_or_off(key, value);
  if (!is_on) return is_on.error();
  if (key == "once") rule.error.once = *is_on;
  return {};
}

Result<> finish(std::vector<BlkdebugRule>& rules, const std::optional<Section>& section) {
  if (!section) return {};
  if (!section->has_event) return invalid("Missing event name for rule");
  rules.push_back(section->rule);
  return {};
}

Result<Section> begin(std::string_view line) {
  const std::string_view name = line.substr(1, line.find_first_of(" \t]") - 1);
  if (line.find(']') == std::string_view::npos) return invalid("parse error");
  if (name != "inject-error" && name != "set-state") return invalid("There is no option group '" + std::string(name) + "'");
  Section section;
  section.name = name;
  if (name == "set-state") section.rule.new_state = 0;
  return section;
}

}  // namespace

std::optional<DebugEvent> debug_event_of(std::string_view name) noexcept { return find<DebugEvent>(event_names, name); }
std::optional<RequestKind> request_kind_of(std::string_view name) noexcept { return find<RequestKind>(kind_names, name); }

Result<> BlkdebugError::set_errno(std::int64_t number) {
  if (number < 0 || number > 4095) return invalid("blkdebug: errno is a number from 0 to 4095");
  os_errno = static_cast<int>(number);
  return {};
}

// Anything but a sector of a disk is nowhere, and -1 is anywhere.
void BlkdebugError::set_sector(std::int64_t sector) noexcept {
  const bool legal = sector >= 0 && static_cast<std::uint64_t>(sector) <= max_disk_size / sector_size;
  if (sector == -1) offset.reset();
  else offset = legal ? static_cast<std::uint64_t>(sector) * sector_size : std::numeric_limits<std::uint64_t>::max();
}

Result<std::vector<BlkdebugRule>> parse_blkdebug_config(std::string_view text) {
  std::vector<BlkdebugRule> rules;
  std::optional<Section> section;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.starts_with('#')) continue;
    if (line.starts_with('[')) {
      if (auto ok = finish(rules, section); !ok) return ok.error();
      auto next = begin(line);
      if (!next) return next.error();
      section = *std::move(next);
      continue;
    }
    if (!section) return invalid("no group defined");
    const std::size_t key_end = std::min(line.find_first_of(blanks), line.size());
    if (auto ok = section->set(line.substr(0, key_end), quoted(line.substr(key_end))); !ok) return ok.error();
  }
  if (auto ok = finish(rules, section); !ok) return ok.error();
  return rules;
}

}  // namespace tidemark
