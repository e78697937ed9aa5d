// Daemon: what tidemarkd is made of, and the order in which it starts and ends.
//
//   start    the command line's steps, in their order; a failure ends the daemon with it
//   serve    until `quit` or a signal
//   end      no new QMP commands; jobs are cancelled; exports are ended; nodes are flushed and closed; QMP sessions,
//            which are told all that, are ended; the iothreads end with the Daemon.  Peers that do not answer are not
//            waited for, and storage that does not as long as patience lasts
#pragma once

#include "app/daemon/ending.hpp"
#include "app/daemon/monitors.hpp"
#include "app/daemon/notices.hpp"
#include "app/daemon/options.hpp"
#include "control/commands/command_set.hpp"

namespace tidemark {

class Daemon {
 public:
  Daemon(Reactor& reactor, TaskGroup& group, Homes::MakeBackend make_backend);
  Daemon(const Daemon&) = delete;

  // Errors name the option that failed, but for a program that --announce is for: it chose them itself.  Ends
  // early when quit() is asked for meanwhile.
  Task<> start(const DaemonOptions& options);
  Task<> wait_for_quit() { return quit_.wait(); }
  void quit() noexcept;
  bool quits() const noexcept { return stopping_.requested(); }
  // When something hangs() after it, the Daemon cannot go, and nor can what it stands on: the process ends with the error.
  Task<> end(Duration patience);
  bool hangs() const noexcept { return ending_.hangs(); }

  std::vector<std::string> uris() const { return command_set_.exports.uris(); }

 private:
  Task<> carry_out_all(const DaemonOptions& options);
  Task<> carry_out(const DaemonAction& action);
  Task<> lose_patience();
  Task<> hear_all();
  static QmpOptions qmp_options();

  Notices notices_;
  CancelSource stopping_, ended_;
  Event quit_;
  Homes homes_;
  CommandTable commands_;
  QmpServer qmp_;
  JobEventSender job_events_;
  JobManager jobs_;
  Monitors monitors_;
  CommandSet command_set_;
  Ending ending_;
};

}  // namespace tidemark
