// qom-list, qom-get, qom-set, qom-list-types, qom-list-properties: the objects that object-add makes, as a tree of properties.
#pragma once

#include "control/graph/homes.hpp"
#include "control/graph/objects.hpp"
#include "control/qmp/commands/qom.hpp"

namespace tidemark {

class QomCommandHandler final : public QomCommands {
 public:
  QomCommandHandler(Homes& homes, Objects& objects) : homes_(homes), objects_(objects) {}
  Task<std::vector<schema::ObjectPropertyInfo>> qom_list(schema::QomListArguments arguments) override;
  Task<std::vector<schema::ObjectPropertiesValues>> qom_list_get(schema::QomListGetArguments arguments) override;
  Task<Json> qom_get(schema::QomGetArguments arguments) override;
  Task<> qom_set(schema::QomSetArguments arguments) override;
  Task<std::vector<schema::ObjectTypeInfo>> qom_list_types(schema::QomListTypesArguments arguments) override;
  Task<std::vector<schema::ObjectPropertyInfo>> qom_list_properties(schema::QomListPropertiesArguments arguments) override;

 private:
  enum class Kind : std::uint8_t { root, container, iothread, throttle_group };
  struct Object {
    Kind kind;
    std::string id;
  };
  Result<Object> find(const std::string& path) const;
  std::vector<schema::ObjectPropertyInfo> properties_of(const Object& object) const;
  Json value_of(const Object& object, const std::string& property) const;
  Json value_of(const Object& object, const schema::ObjectPropertyInfo& property) const;

  Task<> set_iothread(std::string id, std::string name, Json value);

  Homes& homes_;
  Objects& objects_;
};

}  // namespace tidemark
