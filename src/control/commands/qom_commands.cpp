#include "control/commands/qom_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/graph/iothread_properties.hpp"
#include "control/graph/throttle_limits.hpp"

namespace tidemark {
namespace {

using Properties = std::vector<schema::ObjectPropertyInfo>;

schema::ObjectPropertyInfo property(std::string name, std::string type) {
  schema::ObjectPropertyInfo info;
  info.name = std::move(name);
  info.type = std::move(type);
  return info;
}

Properties of_throttle_groups() {
  Properties all{property("type", "string"), property("limits", "ThrottleLimits")};
  const Json limits = schema::to_json(describe_limits({}));
  for (const auto& [name, value] : limits.as_object()) all.push_back(property("x-" + name, "int"));
  return all;
}

Properties of_iothreads() {
  Properties all{property("type", "string")};
  for (const IothreadProperty& one : iothread_properties()) all.push_back(property(std::string(one.name), "int"));
  return all;
}

schema::ObjectTypeInfo type(std::string name, std::string parent) {
  schema::ObjectTypeInfo info;
  info.name = std::move(name);
  info.parent = std::move(parent);
  return info;
}

// One slash is as good as several, and one at the end as none.
std::vector<std::string> parts_of(std::string_view path) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; (at = path.find_first_not_of('/', at)) != path.npos;) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    parts.emplace_back(path.substr(at, end - at));
    at = end;
  }
  return parts;
}

}  // namespace

// A path that does not begin at the root is the end of one.
Result<QomCommandHandler::Object> QomCommandHandler::find(const std::string& path) const {
  std::vector<std::string> parts = parts_of(path);
  if (parts.empty() && !path.empty()) return Object{Kind::root, {}};
  const bool in_container = parts.size() == 2 && parts[0] == "objects";
  const bool partial = parts.size() == 1 && !path.starts_with('/');
  const std::string id = in_container || partial ? parts.back() : std::string();
  if (parts.size() == 1 && parts[0] == "objects") return Object{Kind::container, {}};
  if (objects_.iothreads.contains(id)) return Object{Kind::iothread, id};
  if (objects_.throttle_groups.contains(id)) return Object{Kind::throttle_group, id};
  return Error(Errc::device_not_found, fmt::format("Device '{}' not found", path));
}

Properties QomCommandHandler::properties_of(const Object& object) const {
  if (object.kind == Kind::throttle_group) return of_throttle_groups();
  if (object.kind == Kind::iothread) return of_iothreads();
  Properties all{property("type", "string")};
  if (object.kind == Kind::root) {
    all.push_back(property("objects", "child<container>"));
    return all;
  }
  for (const auto& [id, properties] : objects_.iothreads) all.push_back(property(id, "child<iothread>"));
  for (const auto& [id, group] : objects_.throttle_groups) all.push_back(property(id, "child<throttle-group>"));
  return all;
}

Json QomCommandHandler::value_of(const Object& object, const std::string& name) const {
  constexpr std::string_view types[] = {"container", "container", "iothread", "throttle-group"};
  if (name == "type") return types[static_cast<std::size_t>(object.kind)];
  if (object.kind == Kind::throttle_group) {
    const Json limits = schema::to_json(describe_limits(objects_.find_group(object.id)->limits()));
    return name == "limits" ? limits : *limits.find(std::string_view(name).substr(2));
  }
  const schema::IothreadProperties& given = objects_.iothreads.at(object.id);
  for (const IothreadProperty& known : iothread_properties())
    if (known.name == name) return known.get(given);
  return nullptr;
}

// Of an object, its path.
Json QomCommandHandler::value_of(const Object& object, const schema::ObjectPropertyInfo& property) const {
  if (!property.type.starts_with("child<")) return value_of(object, property.name);
  return (object.kind == Kind::root ? "/" : "/objects/") + property.name;
}

Task<Properties> QomCommandHandler::qom_list(schema::QomListArguments arguments) {
  const Object object = co_await unwrap(find(arguments.path));
  co_return properties_of(object);
}

Task<Json> QomCommandHandler::qom_get(schema::QomGetArguments arguments) {
  const Object object = co_await unwrap(find(arguments.path));
  const Properties all = properties_of(object);
  const auto wanted = [&](const auto& one) { return one.name == arguments.property; };
  const auto found = std::find_if(all.begin(), all.end(), wanted);
  if (found != all.end()) co_return value_of(object, *found);
  const Json type = value_of(object, "type");
  co_await Error(Errc::not_found, fmt::format("Property '{}.{}' not found", type.as_string(), arguments.property));
  co_return Json();
}

Task<std::vector<schema::ObjectPropertiesValues>> QomCommandHandler::qom_list_get(schema::QomListGetArguments arguments) {
  std::vector<schema::ObjectPropertiesValues> all;
  for (const std::string& path : arguments.paths) {
    const Object object = co_await unwrap(find(path));
    schema::ObjectPropertiesValues listed;
    for (const schema::ObjectPropertyInfo& info : properties_of(object)) {
      schema::ObjectPropertyValue property;
      property.name = info.name;
      property.type = info.type;
      property.value = value_of(object, info);
      listed.properties.push_back(std::move(property));
    }
    all.push_back(std::move(listed));
  }
  co_return std::move(all);
}

Task<> QomCommandHandler::qom_set(schema::QomSetArguments arguments) {
  const Object object = co_await unwrap(find(arguments.path));
  const std::string& name = arguments.property;
  const Json type = value_of(object, "type");
  const Properties all = properties_of(object);
  const auto known = [&](const auto& one) { return one.name == name; };
  if (std::none_of(all.begin(), all.end(), known))
    co_await Error(Errc::not_found, fmt::format("Property '{}.{}' not found", type.as_string(), name));
  if (object.kind == Kind::throttle_group && name.starts_with("x-"))
    co_await Error(Errc::unsupported, "Property cannot be set after initialization");
  if (object.kind == Kind::iothread && name != "type") co_return co_await set_iothread(object.id, name, std::move(arguments.value));
  if (object.kind != Kind::throttle_group || name != "limits")
    co_await Error(Errc::unsupported, fmt::format("Property '{}.{}' is not writable", type.as_string(), name));
  const Json named = Json::object({{name, std::move(arguments.value)}});     // as errors tell of it
  const auto given = co_await unwrap(schema::from_json<schema::ThrottleGroupProperties>(named));
  ThrottleGroup& group = *objects_.find_group(object.id);
  group.set(co_await unwrap(with_limits(group.limits(), *given.limits)));
}

// What is refused changes nothing.
Task<> QomCommandHandler::set_iothread(std::string id, std::string name, Json value) {
  schema::IothreadProperties& now = objects_.iothreads.at(id);
  std::int64_t number = 0;
  if (!value.is_int() || !value.to_int64(number))
    co_await Error(Errc::invalid_argument, fmt::format("Invalid parameter type for '{}', expected: integer", name));
  schema::IothreadProperties wanted = now;
  for (const IothreadProperty& known : iothread_properties())
    if (known.name == name) known.set(wanted, number);
  co_await unwrap(check_iothread(wanted));
  co_await tune_thread(homes_, *homes_.find_thread(id), to_thread_options(wanted));
  now = std::move(wanted);
}

Task<std::vector<schema::ObjectTypeInfo>> QomCommandHandler::qom_list_types(schema::QomListTypesArguments arguments) {
  std::vector<schema::ObjectTypeInfo> all;
  const auto wanted = [&](std::string_view name) {
    return !arguments.implements || *arguments.implements == name || *arguments.implements == "object";
  };
  if (wanted("iothread")) all.push_back(type("iothread", "event-loop-base"));
  if (wanted("throttle-group")) all.push_back(type("throttle-group", "object"));
  co_return std::move(all);
}

Task<Properties> QomCommandHandler::qom_list_properties(schema::QomListPropertiesArguments arguments) {
  if (arguments.typename_ == "iothread") co_return of_iothreads();
  if (arguments.typename_ == "throttle-group") co_return of_throttle_groups();
  co_await Error(Errc::device_not_found, fmt::format("Class '{}' not found", arguments.typename_));
}

}  // namespace tidemark
