// A disk whose layers come and go while guests write to it, with bitmaps that follow it: a chain under the daemon, told by
// QMP's commands, and what is to be true of it when it is opened again by what the headers name.
//
// The disk is what guests were last known to use: where a request of theirs ended well, or a command said so.
#pragma once

#include <map>

#include "base/random.hpp"
#include "tests/sim/engine_daemon.hpp"
#include "tests/sim/harness.hpp"
#include "tests/sim/sector_model.hpp"

namespace tidemark::sim {

// What is done to the disk.
struct FollowStep {
  enum class What : std::uint8_t {
    write,                                   // and flush; the others happen while guests write
    add, stay, remove, clear,                // a bitmap that follows the disk, one that does not
    checkpoint, remove_checkpoint,
    snapshot, snapshot_sync,                 // with an overlay that is a node already; that is made
    commit, stream, mirror,
    restart,                                 // the daemon ends well, and is started again
  };
  What what;
  std::string name{};                        // of a bitmap; the file of an overlay or a target
  std::string top{}, base{};                 // files; without a top guests write to what is committed
  bool keep = false, empty = false;          // the active image stays on top; is emptied
  std::string preserve{};
};
using FollowScript = std::vector<FollowStep>;

// What is known of the disk: a copy of it goes with a copy of the machine.
struct FollowKnown {
  using Stamps = std::vector<SectorModel::Stamp>;

  struct Bitmap {
    std::vector<Stamps> points{};            // of one of which it is
    bool there = false, gone = false;        // it surely is; it may be that it is no more
    bool checkpoint = false;
    std::string home{};                      // the file that it stays with, if it does
  };

  static constexpr std::uint64_t disk_size = 192 * KiB;

  std::string disk = "/d/base";
  std::map<std::string, std::string> formats{};      // of all images there are
  std::map<std::string, Bitmap> bitmaps{};
  SectorModel content{disk_size};
  std::size_t step = 0;                      // that is under way
  bool gone_astray = false;                  // guests were already elsewhere at the crash, and nobody had been told
};

class FollowSession final : JobEvents {
 public:
  using Trace = std::function<void(std::string_view)>;
  FollowSession(SimProcess& process, FollowKnown& known, Rule broken, std::uint64_t seed, Trace trace);
  FollowSession(const FollowSession&) = delete;

  // The disk is opened, and all of the script done.
  Task<> run(FollowScript script);
  // The first image is made before.
  Task<> make_and_run(FollowScript script);
  Task<> open_and_close();
  // All that is to be true; and once more when the step that was under way was done again.
  Task<> look(FollowScript script, bool again);
  // Guests may be where nobody was told.
  bool has_left() const;

 private:
  using Stamps = FollowKnown::Stamps;
  using Bitmap = FollowKnown::Bitmap;
  using What = FollowStep::What;

  void status_changed(const std::string&, JobStatus) override {}
  void completed(const JobInfo& job) override { failure_ = job.error; }
  void cancelled(const JobInfo&) override {}
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}

  static constexpr std::size_t guests_max = 2;

  // Guests pause while it is there.
  class [[nodiscard]] Quiet {
   public:
    explicit Quiet(bool& quiet) noexcept : quiet_(&quiet) {}
    Quiet(Quiet&& o) noexcept : quiet_(std::exchange(o.quiet_, nullptr)) {}
    Quiet& operator=(Quiet&&) = delete;
    ~Quiet() {
      if (quiet_) *quiet_ = false;
    }

   private:
    bool* quiet_;
  };

  // follow_session.cpp
  bool alive() { return process_.backend().alive(); }
  Task<> with_daemon(std::function<Task<>()> body, bool opens = true);
  Task<> open_disk();
  Task<> live(FollowScript script);
  Task<> carry_out(const FollowScript& script);
  Task<> go_on_writing(std::size_t guest);
  Task<> write(std::size_t guest);
  Task<> flush(std::size_t guest);
  Task<Quiet> pause();
  Task<Stamps> read(BlockNode& node);
  Task<Json> execute(std::string command, Json arguments);
  BlockNode& disk() const;
  void where_now();

  // follow_steps.cpp
  Task<> perform(const FollowStep& step);
  Task<> write_some();
  Task<> add(const FollowStep& step);
  Task<> remove(const FollowStep& step);
  Task<> clear(const FollowStep& step);
  Task<> checkpoint(const FollowStep& step);
  Task<> remove_checkpoint(const FollowStep& step);
  Task<> snapshot(const FollowStep& step);
  Task<> commit(const FollowStep& step);
  Task<> stream(const FollowStep& step);
  Task<> mirror(const FollowStep& step);
  Task<> let_go_of(std::string node);
  Task<> create(Json options);
  Task<> make_image(std::string path, std::string format, std::string backing);
  void note_image(const std::string& path, const std::string& format);
  Task<> add_node(std::string path, bool backing);
  Task<> finish_job();
  std::string find_layer(const std::string& path) const;
  static std::string node_of(const std::string& path);
  std::string root() const;

  // follow_look.cpp
  Task<> check(std::string when);
  Task<Stamps> check_content();
  Task<> check_bitmaps(const Stamps& now);
  Task<> check_bitmap(const NodeBitmap& there, const std::string& name, const Bitmap& bitmap, const Stamps& now);
  Task<> check_layer(const std::string& name, const Bitmap& bitmap);
  Task<> check_backup(const Stamps& now);
  Task<> check_files();
  static NodeBitmap* find_bitmap(BlockNode& node, const std::string& name, const Bitmap& bitmap);

  SimProcess& process_;
  SimWorld& world_;
  FollowKnown& known_;
  const Workings workings_;
  Prng random_;
  Trace trace_;
  SimDaemon* daemon_ = nullptr;
  std::vector<std::unique_ptr<Edge>> guests_;
  std::map<std::string, std::string> files_;     // of nodes
  std::optional<std::string> failure_;
  bool quiet_ = false;                           // guests pause ...
  int writing_ = 0;                              // ... when these have ended
  bool over_ = false;
};

}  // namespace tidemark::sim
