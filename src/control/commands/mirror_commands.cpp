#include "control/commands/mirror_commands.hpp"

#include "control/jobs/mirror_actions.hpp"

namespace tidemark {

Task<> MirrorCommandHandler::blockdev_mirror(schema::BlockdevMirror arguments) {
  ManagedJob* job = co_await make_mirror(homes_, jobs_, access_, std::move(arguments));
  co_await jobs_.start_at_home(*job);
}

Task<> MirrorCommandHandler::drive_mirror(schema::DriveMirror arguments) {
  ManagedJob* job = co_await make_mirror(homes_, jobs_, access_, std::move(arguments));
  co_await jobs_.start_at_home(*job);
}

}  // namespace tidemark
