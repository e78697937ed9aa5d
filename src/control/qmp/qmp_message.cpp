#include "control/qmp/qmp_message.hpp"

namespace tidemark {
namespace {

Error refused(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

Result<> read_member(std::string& name, Json& value, QmpRequest& request, bool& has_command) {
  if (name == "execute") {
    if (!value.is_string()) return refused("QMP input member 'execute' must be a string");
    request.command = value.as_string();
    has_command = true;
  } else if (name == "arguments") {
    if (!value.is_object()) return refused("QMP input member 'arguments' must be an object");
    request.arguments = std::move(value);
  } else if (name != "id") {
    return refused("QMP input member '" + name.substr(0, schema::name_shown) + "' is unexpected");
  }
  return {};
}

}  // namespace

Result<> read_request(Json message, QmpRequest& request) {
  if (!message.is_object()) return refused("QMP input must be a JSON object");
  if (Json* id = message.find("id")) request.id = std::move(*id);
  bool has_command = false;
  for (auto& [name, value] : message.as_object())
    if (Result<> good = read_member(name, value, request, has_command); !good) return good;
  if (!has_command) return refused("QMP input lacks member 'execute'");
  return {};
}

Json qmp_greeting(const schema::VersionInfo& version) {
  Json greeting = Json::object();
  greeting.set("version", schema::to_json(version));
  greeting.set("capabilities", Json::array());
  return Json::object({{"QMP", std::move(greeting)}});
}

Json qmp_return(Json value, std::optional<Json> id) {
  Json answer = Json::object();
  answer.set("return", std::move(value));
  if (id) answer.set("id", *std::move(id));
  return answer;
}

Json qmp_error(const Error& error, std::optional<Json> id) {
  Json answer = Json::object();
  if (id) answer.set("id", *std::move(id));
  answer.set("error",
             Json::object({{"class", qmp_error_class(error.code())}, {"desc", error.message()}}));
  return answer;
}

Json qmp_event(std::string_view name, Json data, std::int64_t wall_clock_ns) {
  constexpr std::int64_t second = 1'000'000'000, microsecond = 1'000;
  Json timestamp = Json::object();
  timestamp.set("seconds", wall_clock_ns / second);
  timestamp.set("microseconds", wall_clock_ns % second / microsecond);
  Json event = Json::object();
  event.set("timestamp", std::move(timestamp));
  event.set("event", name);
  if (!data.as_object().empty()) event.set("data", std::move(data));
  return event;
}

std::string_view qmp_error_class(Errc code) noexcept {
  switch (code) {
    case Errc::command_not_found: return "CommandNotFound";
    case Errc::device_not_found: return "DeviceNotFound";
    case Errc::device_not_active: return "DeviceNotActive";
    default: return "GenericError";
  }
}

}  // namespace tidemark
