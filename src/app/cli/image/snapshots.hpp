// Internal snapshots of a qcow2 image, as the verbs show and choose them.
#pragma once

#include <string>
#include <vector>

#include "app/cli/image/session.hpp"

namespace tidemark::cli {

// As QEMU's SnapshotInfo has it.
Json to_json(const Qcow2Snapshot& snapshot);
std::string snapshot_table(const std::vector<Qcow2Snapshot>& snapshots);

// Those of an image, which is qcow2.
Task<std::vector<Qcow2Snapshot>> snapshots_in(Reactor& reactor, ImageName image, bool force_share);

// A snapshot reads from what is below its image, too, and nothing can be pulled into it: fails where the image keeps one.
Task<> check_keeps_none(Reactor& reactor, ImageName image);
Error would_change(const std::string& image, const std::string& snapshot);

// The id of the one that is meant by an id, a name, or snapshot.id=ID,snapshot.name=NAME.
Result<std::string> choose_snapshot(const std::vector<Qcow2Snapshot>& snapshots, const std::string& wanted);
// The same, but a word that is the id of one and the name of another is refused: QEMU takes the one, and here the other
// would go, for good.
Result<std::string> choose_for_deletion(const std::vector<Qcow2Snapshot>& snapshots, const std::string& wanted);

}  // namespace tidemark::cli
