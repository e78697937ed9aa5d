// object-add and object-del: iothreads, throttle groups.
#pragma once

#include "control/graph/homes.hpp"
#include "control/graph/objects.hpp"
#include "control/qmp/commands/object.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class ObjectCommandHandler final : public ObjectCommands {
 public:
  ObjectCommandHandler(Homes& homes, const JobManager& jobs, Objects& objects) : homes_(homes), jobs_(jobs), objects_(objects) {}
  Task<> object_add(schema::ObjectOptions arguments) override;
  Task<> object_del(schema::ObjectDelArguments arguments) override;

 private:
  bool has_jobs(const Place& place) const;
  Task<> add_thread(std::string id, schema::IothreadProperties given);
  Task<> remove_group(std::string id);

  Homes& homes_;
  const JobManager& jobs_;
  Objects& objects_;
};

}  // namespace tidemark
