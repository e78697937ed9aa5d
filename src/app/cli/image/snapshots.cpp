#include "app/cli/image/snapshots.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "app/cli/fields.hpp"
#include "app/cli/text.hpp"
#include "backup/manifest.hpp"
#include "schema/keyval.hpp"

namespace tidemark::cli {
namespace {

constexpr std::uint64_t ns_per_s = 1'000'000'000, no_icount = ~std::uint64_t{0};

std::string clock_text(std::uint64_t ns) {
  const std::uint64_t s = ns / ns_per_s;
  return fmt::format("{:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, ns / 1'000'000 % 1000);
}

Error not_there(const std::string& wanted) { return Error(Errc::not_found, fmt::format("Can't find snapshot '{}'", wanted)); }

}  // namespace

Json to_json(const Qcow2Snapshot& s) {
  Json json = Json::object({{"id", s.id}, {"name", s.name}, {"vm-state-size", s.vm_state_bytes},
                            {"date-sec", std::uint64_t{s.date_seconds}}, {"date-nsec", std::uint64_t{s.date_nanoseconds}},
                            {"vm-clock-sec", s.vm_clock_ns / ns_per_s}, {"vm-clock-nsec", s.vm_clock_ns % ns_per_s}});
  if (s.icount != no_icount) json.set("icount", s.icount);
  return json;
}

std::string snapshot_table(const std::vector<Qcow2Snapshot>& snapshots) {
  Table table({"ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "DISK SIZE"});
  for (const Qcow2Snapshot& s : snapshots)
    table.add({s.id, s.name, human_size(s.vm_state_bytes), utc_time(static_cast<std::int64_t>(s.date_seconds * ns_per_s)),
               clock_text(s.vm_clock_ns), human_size(s.disk_size)});
  return table.to_text();
}

Task<std::vector<Qcow2Snapshot>> snapshots_in(Reactor& reactor, ImageName image, bool force_share) {
  std::function<Task<std::vector<Qcow2Snapshot>>(Session&)> body = [&](Session& session) -> Task<std::vector<Qcow2Snapshot>> {
    Qcow2OpenOptions reading;
    reading.read_only = true;
    const Qcow2Driver* opened = co_await session.open_qcow2(image.name, reading, force_share);
    co_return opened->snapshots();
  };
  co_return co_await in_session<std::vector<Qcow2Snapshot>>(reactor, body);
}

Task<> check_keeps_none(Reactor& reactor, ImageName image) {
  if (image.format != "qcow2") co_return;
  const qcow2::Header header = co_await read_header(reactor, image.name);
  if (header.snapshots == 0) co_return;
  const auto kept = co_await snapshots_in(reactor, image, true);
  if (!kept.empty()) co_await would_change(image.name, kept.front().name);
}

Error would_change(const std::string& image, const std::string& snapshot) {
  return Error(Errc::busy, fmt::format("'{}' keeps the internal snapshot '{}', which reads from what is below, too, and would change; "
                                       "delete it first", image, snapshot));
}

Result<std::string> choose_snapshot(const std::vector<Qcow2Snapshot>& snapshots, const std::string& wanted) {
  const auto find = [&](auto matches) -> Result<std::string> {
    const auto found = std::find_if(snapshots.begin(), snapshots.end(), matches);
    if (found == snapshots.end()) return not_there(wanted);
    return found->id;
  };
  if (!wanted.starts_with("snapshot.")) {                // an id counts more than a name that looks like one
    const auto by_id = find([&](const Qcow2Snapshot& s) { return s.id == wanted; });
    return by_id ? by_id : find([&](const Qcow2Snapshot& s) { return s.name == wanted; });
  }
  const auto parsed = schema::parse_keyval(wanted);
  if (!parsed) return parsed.error();
  const Json* parts = parsed->find("snapshot");
  const Json* id = parts ? parts->find("id") : nullptr;
  const Json* name = parts ? parts->find("name") : nullptr;
  if ((!id && !name) || parsed->as_object().size() != 1 || parts->as_object().size() != (id ? 1u : 0u) + (name ? 1u : 0u))
    return Error(Errc::invalid_argument, fmt::format("'{}' does not say a snapshot: it is snapshot.id=ID,snapshot.name=NAME", wanted));
  return find([&](const Qcow2Snapshot& s) {
    return (!id || s.id == text(*parts, "id")) && (!name || s.name == text(*parts, "name"));
  });
}

Result<std::string> choose_for_deletion(const std::vector<Qcow2Snapshot>& snapshots, const std::string& wanted) {
  const auto chosen = choose_snapshot(snapshots, wanted);
  if (!chosen || wanted.starts_with("snapshot.")) return chosen;
  const bool is_id = *chosen == wanted;
  for (const Qcow2Snapshot& s : snapshots)
    if (is_id && s.name == wanted && s.id != wanted)
      return Error(Errc::invalid_argument, fmt::format("'{}' is the id of one snapshot and the name of another; say snapshot.id={} or "
                                                       "snapshot.name={}", wanted, wanted, wanted));
  return chosen;
}

}  // namespace tidemark::cli
