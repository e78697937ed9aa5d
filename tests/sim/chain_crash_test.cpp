// Chain jobs through power cuts: after a crash at any operation of a stream, a commit or a mirror the disk, opened by what the headers
// name, holds what it may hold; its images have leaked clusters at most; and the job can be run again.  Where a commit preserves what
// reads from its base that reads as it did at any moment.
#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/driver.hpp"
#include "job/chain/commit.hpp"
#include "job/chain/stream.hpp"
#include "job/mirror/mirror.hpp"
#include "storage/file.hpp"
#include "task/group.hpp"
#include "tests/sim/harness.hpp"
#include "tests/sim/sector_model.hpp"

namespace tidemark::sim {
namespace {

using P = Permissions;
constexpr Permissions all_rights{P::consistent_read | P::write | P::resize, P::all}, reading{P::consistent_read, P::all};

struct Layer {
  std::string name;
  std::uint64_t size, cluster_size;
};

class Outcome final : public JobEvents {
 public:
  void status_changed(const std::string&, JobStatus status) override { concluded = status == JobStatus::concluded || concluded; }
  void completed(const JobInfo& job) override { failure = job.error; }
  void cancelled(const JobInfo&) override {}
  void ready(const JobInfo&) override {}
  void pending(const JobInfo&) override {}
  void error(const std::string&, IoSide, ErrorAction) override {}
  std::optional<std::string> failure;
  bool concluded = false;
};

// The chain as it is opened from its top, by the names in the headers.
class OpenChain final : public ChainAccess {
 public:
  explicit OpenChain(Reactor& reactor, Rule broken = Rule::none) : graph_(reactor) {
    Workings workings;
    workings.broken = broken;
    graph_.set_workings(workings);
  }

  Task<> open(std::string name) {
    BlockNode* top = co_await open_image(std::move(name));
    const Permissions guest{P::consistent_read | P::write, P::all};
    root_ = co_await unwrap(Edge::attach(*top, Role::root, guest, "guest"));
  }
  Task<> close() {
    root_.reset();
    co_await graph_.close_all();
  }
  // Beside the chain, and on what it has of it.
  Task<BlockNode*> add(std::string name) { return open_image(std::move(name)); }
  Edge& edge() noexcept { return *root_; }
  Graph& graph() noexcept { return graph_; }
  BlockNode* find(const std::string& name) { return graph_.find(name.substr(1)); }
  Task<> make_writable(BlockNode&) override { co_return; }
  Task<> make_read_only(BlockNode&) override { co_return; }
  Task<> uncover(BlockNode& image, Range range) override {
    co_await static_cast<Qcow2Driver&>(image.driver()).uncover(range);
  }
  Result<> check_size_change(const BlockNode&) override { return {}; }

 private:
  Task<BlockNode*> open_image(std::string name) {
    if (BlockNode* there = find(name)) co_return there;
    FileOptions options;
    options.filename = name;
    NodeOptions storage, image;
    auto opened_file = co_await open_file(graph_.reactor(), options);
    BlockNode* file = co_await graph_.add(storage, std::move(opened_file));
    Qcow2OpenOptions how;
    how.caches.l2 = how.caches.refcount = 0;                 // the least there is
    auto edge = co_await unwrap(Edge::attach(*file, Role::file, all_rights, "test"));
    auto opened = co_await Qcow2Driver::open(std::move(edge), how).result();
    if (!opened) (void)co_await graph_.release(*file).result();
    std::unique_ptr<Qcow2Driver> driver = co_await unwrap(std::move(opened));
    if (!driver->backing_file().empty()) {
      auto below = co_await open_image(driver->backing_file()).result();
      if (!below) (void)co_await driver->close().result();
      BlockNode* const backing = co_await unwrap(std::move(below));
      driver->set_backing(co_await unwrap(Edge::attach(*backing, Role::backing, reading, "test")));
    }
    image.name = name.substr(1);
    co_return co_await graph_.add(image, std::move(driver));
  }

  Graph graph_;
  std::unique_ptr<Edge> root_;
};

// What is done: all down to `bottom` is pulled into the disk; or what is from `top` down, or guests write to, is committed
// into `base`; or all goes to `target`.
struct Work {
  std::string bottom, top, base;
  bool keep = false;                       // the disk stays on top
  bool empty = false;                      // or goes, emptied
  std::string target = "";
  Preserve preserve = Preserve::off;       // there is an image beside the chain then
  Rule broken = Rule::none;
};

class ChainJob : public Workload {
 public:
  explicit ChainJob(Work work) : work_(std::move(work)) {}

  Task<> prepare(SimProcess& process) override {
    random_.emplace(process.backend().random());
    std::string below;
    for (const Layer& layer : layers_) {
      process.backend().world().disk().import_file(layer.name, {});
      co_await make_image(process, layer, below);
      below = layer.name;
    }
    process.backend().world().disk().import_file(target_.name, {});
    co_await make_image(process, target_, "");
    process.backend().world().disk().import_file(beside_.name, {});
    std::string stood_on = work_.base;
    if (stood_on.empty()) stood_on = "/base";
    co_await make_image(process, beside_, stood_on);
    // Into each layer what the disk has there from above cannot be seen; the model is what the chain reads as.
    OpenChain chain(process.reactor());
    co_await chain.open(disk_);
    for (const Layer& layer : layers_) co_await scribble(*chain.find(layer.name));
    BlockNode* const beside = co_await chain.add(beside_.name);
    co_await scribble(*beside);
    AlignedBuffer content(disk_size);
    co_await chain.edge().read(0, content.bytes());
    for (std::uint64_t at = 0; at < disk_size; at += SectorModel::sector) {
      const Range range{at, SectorModel::sector};
      model_.begin(range, load_be<std::uint64_t>(content.data() + at));
      model_.end(range);
    }
    co_await chain.close();
    model_.all_durable();
    if (work_.preserve == Preserve::off) co_return;
    for (const char* name : {"/a", "/b", "/beside"})
      if (name != work_.base) kept_.emplace_back(name, co_await read_all(process, name));
  }

  Task<> run(SimProcess& process) override { co_await once(process, true); }

  Task<> recover(SimProcess& process) override {
    OpenChain chain(process.reactor());
    co_await chain.open(disk_);
    co_await chain.close();
  }

  // As it is, and when the job has been run once more, if there still is something for it to do.
  Task<> verify(SimProcess& process) override {
    co_await compare(process, "after the crash");
    co_await once(process, false);
    co_await compare(process, "when the job was run again");
  }

 private:
  static constexpr std::uint64_t disk_size = 192 * KiB;

  Task<> make_image(SimProcess& process, const Layer& layer, std::string below) {
    Graph graph(process.reactor());
    FileOptions options;
    options.filename = layer.name;
    auto opened = co_await open_file(process.reactor(), options);
    const NodeOptions plain;
    BlockNode* file = co_await graph.add(plain, std::move(opened));
    auto edge = co_await unwrap(Edge::attach(*file, Role::root, all_rights, "test"));
    Qcow2CreateOptions create;
    create.size = layer.size;
    create.cluster_size = layer.cluster_size;
    create.backing_file = below;
    if (!below.empty()) create.backing_format = "qcow2";
    co_await Qcow2Driver::create(*edge, create);
    edge.reset();
    co_await graph.close_all();
  }

  Task<std::vector<std::byte>> read_all(SimProcess& process, std::string name) {
    OpenChain chain(process.reactor());
    co_await chain.open(std::move(name));
    std::vector<std::byte> content(chain.edge().size());
    const Buffers into{MutableBytes(content)};
    const Result<> read = co_await chain.edge().read(0, into).result();
    co_await chain.close();
    co_await unwrap(read);
    co_return content;
  }

  Task<> scribble(BlockNode& node) {
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t at = random_->below(node.size() / 512) * 512;
      const Range range{at, std::min((1 + random_->below(30)) * 512, node.size() - at)};
      std::vector<std::byte> data(range.length);
      SectorModel::fill(data, model_.next_stamp());
      co_await node.driver().write(range.offset, Buffers(MutableBytes(data)), WriteFlags::none);
    }
  }

  Task<> once(SimProcess& process, bool guest) {
    OpenChain chain(process.reactor(), work_.broken);
    co_await chain.open(disk_);
    if (work_.preserve != Preserve::off) (void)co_await chain.add(beside_.name);
    Outcome outcome;
    const auto body = [&](TaskGroup& group) -> Task<> {
      JobManager jobs(process.reactor(), group, outcome);
      Result<> done = co_await begin(jobs, chain).result();
      if (done && guest) done = co_await write_some(process, chain.edge()).result();
      while (done && !jobs.jobs().empty()) {
        if (jobs.jobs().front()->status() == JobStatus::ready) (void)jobs.complete(*jobs.jobs().front());
        co_await process.reactor().sleep(std::chrono::milliseconds(1));
      }
      if (done && !work_.empty && !chain.edge().node().name().starts_with("disk")) disk_ = "/" + chain.edge().node().name();
      if (done && guest) done = co_await write_some(process, chain.edge()).result();
      co_await jobs.cancel_all();
      co_await unwrap(done);
      if (outcome.failure) co_await Error(Errc::io, *outcome.failure);
    };
    const Result<> worked = co_await with_group(process.reactor(), body).result();
    const Result<> closed = co_await chain.close().result();
    co_await unwrap(worked);
    co_await unwrap(closed);
    if (guest) model_.all_durable();
  }

  Task<> begin(JobManager& jobs, OpenChain& chain) {
    BlockNode& disk = chain.edge().node();
    if (!work_.target.empty()) {
      MirrorOptions options;
      options.job.id = "j";
      options.source = &disk;
      options.sync = SyncMode::full;
      if (disk_ == work_.target) co_return;
      options.target = co_await chain.add(work_.target);
      jobs.start(*co_await MirrorJob::create(jobs, std::move(options)));
      co_return;
    }
    if (work_.bottom.empty() && work_.top.empty()) {
      MirrorOptions options;
      options.job.id = "j";
      options.source = &disk;
      options.target = chain.find(work_.base);
      options.sync = SyncMode::top;
      options.commit = ActiveCommitOptions{&chain, work_.keep, {}, false, work_.empty, work_.preserve == Preserve::full};
      // One that preserves has the base leave the chain right before guests go over to it.
      const bool stands = options.target && options.target != &disk && chain.graph().stands_on(disk, *options.target);
      if (stands) jobs.start(*co_await MirrorJob::create(jobs, std::move(options)));
      co_return;
    }
    if (work_.bottom.empty()) {
      CommitOptions options;
      options.job.id = "j";
      options.disk = &disk;
      options.top = chain.find(work_.top);
      options.base = chain.find(work_.base);
      options.access = &chain;
      options.preserve = work_.preserve;
      if (options.top) jobs.start(*co_await CommitJob::create(jobs, std::move(options)));
      co_return;
    }
    StreamOptions options;
    options.job.id = "j";
    options.disk = &disk;
    options.bottom = chain.find(work_.bottom);
    options.access = &chain;
    if (options.bottom) jobs.start(*co_await StreamJob::create(jobs, std::move(options)));
  }

  Task<> write_some(SimProcess& process, Edge& edge) {
    for (int i = 0; i < 6; ++i) {
      const Range range{random_->below(disk_size / 512 - 16) * 512, (1 + random_->below(16)) * 512};
      const SectorModel::Stamp stamp = model_.next_stamp();
      std::vector<std::byte> data(range.length);
      SectorModel::fill(data, stamp);
      model_.begin(range, stamp);
      co_await edge.write(range.offset, Buffers(MutableBytes(data)));
      model_.end(range);
      if (i % 3 == 2) {
        const auto before = model_.before_flush();
        co_await edge.flush();
        model_.flushed(before);
      }
      co_await process.reactor().sleep(Duration(random_->below(300'000)));
    }
  }

  Task<> compare(SimProcess& process, std::string when) {
    for (const Layer& layer : layers_) co_await check(process, layer.name);
    co_await check(process, target_.name);
    OpenChain chain(process.reactor());
    co_await chain.open(disk_);
    AlignedBuffer content(disk_size);
    const Result<> read = co_await chain.edge().read(0, content.bytes()).result();
    co_await chain.close();
    co_await unwrap(read);
    if (auto same = model_.check(content.bytes()); !same) co_await same.error().with_context(when);
    for (const auto& [name, before] : kept_) {
      co_await check(process, name);
      const std::vector<std::byte> now = co_await read_all(process, name);
      if (now != before) co_await Error(Errc::corrupt, name + " " + when + ": it does not read as before");
    }
  }

  Task<> check(SimProcess& process, std::string name) {
    Graph graph(process.reactor());
    FileOptions options;
    options.filename = name;
    auto opened = co_await open_file(process.reactor(), options);
    const NodeOptions plain;
    BlockNode* file = co_await graph.add(plain, std::move(opened));
    auto edge = co_await unwrap(Edge::attach(*file, Role::root, reading, "test"));
    const qcow2::CheckOptions look;
    auto report = co_await qcow2::check_image(*edge, look).result();
    edge.reset();
    co_await graph.close_all();
    const qcow2::CheckReport found = co_await unwrap(std::move(report));
    if (found.corruptions + found.check_errors != 0) co_await Error(Errc::corrupt, name + ": " + found.messages.front());
  }

  const std::vector<Layer> layers_{{"/base", 128 * KiB, 4096}, {"/a", 160 * KiB, 8192}, {"/b", 96 * KiB, 4096}, {"/disk", disk_size, 4096}};
  const Layer target_{"/target", disk_size, 8192}, beside_{"/beside", disk_size, 8192};
  std::vector<std::pair<std::string, std::vector<std::byte>>> kept_;     // what is never to read otherwise
  const Work work_;
  std::string disk_ = "/disk";             // which guests use: another one after a pivot
  SectorModel model_{disk_size};
  std::optional<Prng> random_;
};

CrashPlan plan_of(std::uint64_t ops) {
  CrashPlan plan;
  plan.seeds = 3;
  plan.ops_max = ops;
  plan.fates = 3;
  plan.options.short_file_ppm = 0;         // which can end within a sector
  return plan;
}

TEST(ChainCrash, StreamToNothing) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"/base", "", ""}); }, plan_of(40)));
}
TEST(ChainCrash, StreamToABase) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"/a", "", ""}); }, plan_of(40)));
}
TEST(ChainCrash, CommitOneLayer) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "/b", "/a"}); }, plan_of(40)));
}
TEST(ChainCrash, CommitSeveralLayers) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "/b", "/base"}); }, plan_of(40)));
}
TEST(ChainCrash, CommitOfTheDiskByAPivot) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/a"}); }, plan_of(60)));
}
TEST(ChainCrash, MirrorToAnotherImage) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "", false, false, "/target"}); }, plan_of(60)));
}
TEST(ChainCrash, CommitOfAllByAPivot) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/base"}); }, plan_of(60)));
}
TEST(ChainCrash, CommitOfTheDiskThatStays) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/b", true}); }, plan_of(60)));
}
TEST(ChainCrash, CommitOfAllThatStays) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/base", true}); }, plan_of(60)));
}
TEST(ChainCrash, CommitOfTheDiskThatIsEmptied) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/b", false, true}); }, plan_of(60)));
}
TEST(ChainCrash, CommitOfAllThatIsEmptied) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(Work{"", "", "/base", false, true}); }, plan_of(60)));
}

Work preserving(std::string top, std::string base, Preserve how, Rule broken = Rule::none) {
  Work work{"", std::move(top), std::move(base)};
  work.preserve = how;
  work.broken = broken;
  return work;
}
TEST(ChainCrash, CommitThatPreserves) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(preserving("/b", "/base", Preserve::on)); }, plan_of(80)));
}
TEST(ChainCrash, CommitAfterWhichNobodyNeedsTheBase) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(preserving("/b", "/base", Preserve::full)); }, plan_of(80)));
}
TEST(ChainCrash, CommitOfOneThatPreserves) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(preserving("/b", "/a", Preserve::on)); }, plan_of(80)));
}
TEST(ChainCrash, CommitOfTheDiskThatPreserves) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(preserving("", "/base", Preserve::full)); }, plan_of(100)));
}
TEST(ChainCrash, CommitOfTheDiskOnItsBaseThatPreserves) {
  EXPECT_TRUE(survives_crashes([] { return std::make_unique<ChainJob>(preserving("", "/b", Preserve::full)); }, plan_of(100)));
}
TEST(ChainCrash, WithoutTheFlushBeforeTheBaseIsWritten) {
  const auto broken = [] { return std::make_unique<ChainJob>(preserving("/b", "/base", Preserve::on, Rule::flush_preserved)); };
  EXPECT_FALSE(survives_crashes(broken, plan_of(80)));
}

}  // namespace
}  // namespace tidemark::sim
