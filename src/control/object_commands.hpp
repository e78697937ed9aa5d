// object-add and object-del: iothreads.
#pragma once

#include "control/commands/object.hpp"
#include "control/homes.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class ObjectCommandHandler final : public ObjectCommands {
 public:
  ObjectCommandHandler(Homes& homes, const JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> object_add(schema::ObjectOptions arguments) override;
  Task<> object_del(schema::ObjectDelArguments arguments) override;

 private:
  bool has_jobs(const Place& place) const;

  Homes& homes_;
  const JobManager& jobs_;
};

}  // namespace tidemark
