// Exports: the NBD server and what it serves, as QMP sees them: ids, one server at most, removal that
// ends when the last client has gone.
//
// An export is served on the thread of its node, which it keeps there.  What goes on after a command has
// been answered runs in the owner's task group: a server that was stopped, and each export, until the last request of their
// clients has ended.  stop() is awaited before this goes.
#pragma once

#include <map>
#include <memory>

#include "control/graph/homes.hpp"
#include "control/qmp/commands/export.hpp"
#include "control/qmp/event_sink.hpp"
#include "export/nbd/server.hpp"
#include "task/group.hpp"

namespace tidemark {

class Exports final : public ExportCommands {
 public:
  Exports(Homes& homes, TaskGroup& group, EventSink& events)
      : homes_(homes), group_(group), events_(events), changed_(homes.main().reactor) {}

  Task<> nbd_server_start(schema::NbdServerOptionsLegacy arguments) override;
  Task<> nbd_server_add(schema::NbdServerAddOptions arguments) override;
  Task<> nbd_server_remove(schema::NbdServerRemoveArguments arguments) override;
  Task<> nbd_server_stop() override;
  Task<> block_export_add(schema::BlockExportOptions arguments) override;
  Task<> block_export_del(schema::BlockExportDelArguments arguments) override;
  Task<std::vector<schema::BlockExportInfo>> query_block_exports() override;

  // For a transaction: whatever block-export-add can say no to, and then no client finds it before show(); or it is undone.
  // Where the node is to live, which it can only be told while nothing is at rest.
  Task<> gather(const schema::BlockExportOptions& arguments);
  Task<> prepare(schema::BlockExportOptions arguments);
  void show(const std::string& id) noexcept;
  Task<> undo(std::string id);

  // `--nbd-server` of the command line: clients wait until serve(), which is called once, when the exports are there.
  Task<> start(schema::NbdServerOptions options);
  void serve();
  // Ends all exports and the server; waits for what clients have under way, which may hang.
  Task<> stop();
  // That have not ended.
  std::vector<std::string> ids() const;

  // A node at a place, with what it stands on, and what exports may do with them.  On error all is as it was.
  Task<> set_active(Place& place, std::string node, bool active);

  // Those whose nodes live on a thread.
  std::vector<std::shared_ptr<NbdExport>> at_home(const Reactor& home) const;

  // Where clients find an export: "nbd+unix:///NAME?socket=PATH"; for people.
  std::vector<std::string> uris() const;

 private:
  struct Entry {
    std::shared_ptr<NbdExport> nbd;
    std::uint64_t number = 0;                        // in the order in which they were added
    std::string node;                                // when somebody last asked
    bool shutting_down = false;
    Place* place = nullptr;
    std::vector<std::string> activated;              // for it: inactive again when it is undone
  };
  Task<> start_server(NbdServerOptions options);
  Task<Place*> check_new(const schema::BlockExportOptions& arguments);
  Task<Place*> choose_place(const schema::BlockExportOptions& arguments, Place* wanted);
  Task<> take_back(Place& place, std::vector<std::string> activated);
  Task<> add_hidden(schema::BlockExportOptions arguments, Place& place);
  Task<> remove(std::string id, schema::BlockExportRemoveMode mode);
  static Task<> finish_removal(std::shared_ptr<NbdExport> nbd);
  void removed(const std::string& id);
  void begin_stop();
  Task<> end_server(std::unique_ptr<NbdServer> server);

  Homes& homes_;
  TaskGroup& group_;
  EventSink& events_;
  std::unique_ptr<NbdServer> server_;
  std::map<std::string, Entry> exports_;             // by id
  std::uint64_t added_ = 0;
  unsigned stopping_ = 0;                            // servers whose last client has not gone
  Event changed_;                                    // one of those, or of the exports, is gone
};

}  // namespace tidemark
