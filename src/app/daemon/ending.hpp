// Ending: the end of all that a daemon has, for who cannot wait for ever.
//
// What can be ended in order is.  Storage may hang; once nothing has moved for as long as patience lasts, the nodes that have nothing
// to do with it are closed all the same, and when nothing moves for as long again, what is left is named, and given up.
#pragma once

#include <map>

#include "control/commands/command_set.hpp"

namespace tidemark {

// One thread.  Its tasks run in `group`, which is joined before this goes, unless something hangs().
class Ending {
 public:
  Ending(Homes& homes, JobManager& jobs, CommandSet& commands, TaskGroup& group)
      : homes_(homes), jobs_(jobs), commands_(commands), group_(group) {}
  Ending(const Ending&) = delete;

  // Errors are those of CommandSet::end(), or name what hangs.
  Task<> run(CommandLock& lock, Duration patience);
  // What it uses can neither be used nor taken away any more.
  bool hangs() const noexcept { return hangs_; }

  // Of the nodes on a thread.
  struct Sight {
    std::uint64_t nodes = 0, operations = 0;
    std::vector<std::string> busy;               // the lowest ones that something is under way in
    bool operator==(const Sight&) const = default;
  };

 private:
  struct Progress {
    std::size_t jobs = 0, exports = 0;
    std::map<Place*, Sight> places;
    bool operator==(const Progress&) const = default;
  };
  Task<> end_all(CommandLock& lock);
  void watch_threads();
  Task<> watch(Place& place);
  Task<bool> ended_in_time(Duration patience);
  Progress progress() const;
  std::string left() const;

  Homes& homes_;
  JobManager& jobs_;
  CommandSet& commands_;
  TaskGroup& group_;
  CancelSource ended_;                           // with this outcome
  Result<> outcome_;
  std::map<Place*, Sight> seen_;                 // when it last answered
  bool watches_threads_ = false, hangs_ = false;
};

}  // namespace tidemark
