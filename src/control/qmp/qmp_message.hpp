// QMP's messages as JSON values: what a request must look like, and how answers and events are put.
// Pure; QEMU's docs/interop/qmp-spec.rst is the protocol.
#pragma once

#include <optional>

#include "base/json.hpp"
#include "schema/control.hpp"

namespace tidemark {

struct QmpRequest {
  std::optional<Json> id;  // as it came, for the answer; set even when the rest is wrong
  std::string command;
  Json arguments = Json::object();
};

// QEMU's messages.  Out-of-band execution is refused as it is where it was not negotiated.
Result<> read_request(Json message, QmpRequest& request);

// {"QMP": {"version": ..., "capabilities": []}}
Json qmp_greeting(const schema::VersionInfo& version);

Json qmp_return(Json value, std::optional<Json> id);
Json qmp_error(const Error& error, std::optional<Json> id);

// `wall_clock_ns` is since 1970.
Json qmp_event(std::string_view name, Json data, std::int64_t wall_clock_ns);

// "GenericError", "CommandNotFound", ...
std::string_view qmp_error_class(Errc code) noexcept;

}  // namespace tidemark
