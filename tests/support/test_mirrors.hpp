// For tests of mirrors: a disk and its target, late and slow, with a guest at work.
#pragma once

#include "job/mirror/mirror.hpp"
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {

inline constexpr std::uint64_t disk_size = 6 * MiB + 20 * KiB;
inline constexpr std::uint64_t ms = 1'000'000;

// A filter whose requests are told some while after they were carried out: what a reader has is old by then.
class Late final : public BlockDriver {
 public:
  Late(std::unique_ptr<Edge> file, std::uint64_t seed, std::uint64_t most_ns)
      : file_(std::move(file)), random_(seed), most_ns_(most_ns) {}
  std::string_view name() const noexcept override { return "late"; }
  std::uint64_t size() const noexcept override { return file_->size(); }
  bool is_filter() const noexcept override { return true; }
  std::vector<Edge*> edges() const override { return file_ ? std::vector<Edge*>{file_.get()} : std::vector<Edge*>{}; }
  Task<Extent> map(Range wanted) override { return file_->map(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override { return late(file_->read(offset, into)); }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    return late(file_->write(offset, from, flags));
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override { return late(file_->write_zeroes(range, flags)); }
  Task<> discard(Range range) override { return late(file_->discard(range)); }
  Task<> flush() override { return file_->flush(); }
  Task<ImageInfo> info() override { return file_->node().driver().info(); }
  Task<> close() override {
    file_.reset();
    co_return;
  }

 private:
  Task<> late(Task<> request) {
    const Result<> done = co_await std::move(request).result();
    co_await home().reactor().sleep(Duration(random_.below(most_ns_ + 1)));
    co_await unwrap(done);
  }
  std::unique_ptr<Edge> file_;
  Prng random_;
  std::uint64_t most_ns_;
};

class MirrorTest : public JobsTest {
 protected:
  BlockNode& late(const std::string& name, std::uint64_t most_ns) {
    auto edge = Edge::attach(disks->disk(name, disk_size), Role::filtered, {Permissions::none, Permissions::all}, "late");
    return disks->add("late-" + name, std::make_unique<Late>(*std::move(edge), disks->random(), most_ns));
  }
  void make(std::uint64_t seed, std::uint64_t jitter_ns = 400'000) {
    restart(seed);
    source = &late("s", jitter_ns);
    target = &late("t", jitter_ns);
    const Content content = disks->fill(*source);
    disks->fill(*target);
    guest.emplace(*disks, disks->attach(*source), content);
    FaultRule slow;
    slow.jitter_ns = jitter_ns;
    disks->set_faults("s", {slow});
    disks->set_faults("t", {slow});
  }
  MirrorOptions mirror(SyncMode sync = SyncMode::full, CopyMode mode = CopyMode::background) {
    MirrorOptions options;
    options.job.id = "j";
    options.source = source;
    options.target = target;
    options.sync = sync;
    options.copy_mode = mode;
    return options;
  }
  NodeBitmap& add_bitmap(std::uint32_t granularity = 64 * KiB) {
    return **source->bitmaps().add("b", source->size(), granularity);
  }
  MirrorOptions by_bitmap(SyncMode sync, BitmapMode mode) {
    MirrorOptions options = mirror(sync);
    options.bitmap.name = "b";
    options.bitmap.mode = mode;
    return options;
  }
  Task<ManagedJob*> start(MirrorOptions options) {
    ManagedJob* job = co_await MirrorJob::create(*jobs, std::move(options));
    jobs->start(*job);
    co_return job;
  }
  static CopyMode either_mode(Prng& random) {
    return random.chance(1, 2) ? CopyMode::background : CopyMode::write_blocking;
  }
  MirrorJob& mirror_job() { return static_cast<MirrorJob&>(job("j").job()); }
  bool synced() { return *mirror_job().actively_synced(); }
  // The content of two disks is the same, now; a guest at work is held up for the look.
  Task<bool> equal() {
    const auto one = co_await disks->graph.drain(disks->node("s"));
    const auto other = co_await disks->graph.drain(disks->node("t"));
    const Content now = co_await Disks::read_all(disks->node("s"));
    const Content then = co_await Disks::read_all(disks->node("t"));
    co_return now == then;
  }
  // Every sector in which the target differs from the disk as it is now is dirty.
  Task<std::uint64_t> uncovered(const NodeBitmap& bitmap) {
    const auto drained = co_await disks->graph.drain(disks->node("s"));
    const Content now = co_await Disks::read_all(disks->node("s"));
    const Content then = co_await Disks::read_all(disks->node("t"));
    std::uint64_t lost = 0;
    for (std::uint64_t at = 0; at < now.size(); at += sector_size)
      if (std::memcmp(now.data() + at, then.data() + at, sector_size) != 0) lost += !bitmap.bits().test(at);
    co_return lost;
  }
  void run_with_guest(std::function<Task<>()> body) {
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest->work_on(2));
        co_await body();
        guest->stop();
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_EQ(guest->failed(), 0u);
  }
  Task<> pivot_beside_guest() {
    co_await reach("j", JobStatus::ready);
    co_await pass(10);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
    co_await pass(5);
  }
  Content of(BlockNode& node) { return disks->content_of(node); }

  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  std::optional<Guest> guest;
};

}  // namespace tidemark::test
