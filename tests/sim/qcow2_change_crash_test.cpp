// What is done to a qcow2 image beside writing to it, through power cuts: internal snapshots, amending, resizing,
// bitmaps; and repair afterwards, which leaves nothing leaked.
#include "tests/sim/qcow2_workload.hpp"

namespace tidemark::sim {
namespace {

using qcow2::WriteOrder;

// One is made, applied and deleted between the writes.
class Snapshots : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess& process, OpenImage& image) override {
    co_await write_some(process, image);
    Qcow2Snapshot wanted;
    wanted.name = "s";
    AlignedBuffer then(disk_.size);
    co_await image.edge().read(0, then.bytes());
    co_await image.driver().create_snapshot(wanted);
    model_.all_durable();
    co_await write_some(process, image);
    co_await image.edge().flush();
    model_.all_durable();
    const Range all{0, disk_.size};
    for (std::uint64_t at = 0; at < disk_.size; at += SectorModel::sector)
      model_.begin({at, SectorModel::sector}, load_be<std::uint64_t>(then.data() + at));
    co_await image.driver().apply_snapshot("s");
    model_.end(all);
    model_.all_durable();
    co_await write_some(process, image);
    co_await image.driver().delete_snapshot("s");
    model_.all_durable();
    co_await write_some(process, image);
  }
};

// Version, width of refcounts, lazy refcounts and the backing file's name change between the writes.
class Amendments : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess& process, OpenImage& image) override {
    for (int i = 0; i < 4; ++i) {
      const Qcow2AmendOptions options = next();
      co_await image.driver().amend(options);
      discards_zero_ = options.version != 2u;
      model_.all_durable();
      co_await write_some(process, image);
    }
  }

  Qcow2AmendOptions next() {
    Qcow2AmendOptions options;
    const std::uint64_t choice = random_->below(5);
    if (choice == 0) options.version = 2, options.refcount_bits = 16, options.lazy_refcounts = false;
    else options.version = 3;
    if (choice == 1 || choice == 2) options.refcount_bits = 8u << random_->below(4);
    if (choice == 3) options.lazy_refcounts = random_->chance(1, 2);
    if (choice == 4 && disk_.backing) options.backing_file = random_->chance(1, 2) ? "base.raw" : "./base.raw";
    return options;
  }
};

// Version 2 says nothing of how wide refcounts are: they are as it wants them before it is that.
class Downgrade : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess&, OpenImage& image) override {
    Qcow2AmendOptions options;
    options.refcount_bits = 64;
    co_await image.driver().amend(options);
    options.refcount_bits = 16;
    options.version = 2;
    co_await image.driver().amend(options);
  }
};

// The disk becomes smaller, and as large as it was: what was cut off reads as zeroes, whatever lies below it.
class Resizes : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess& process, OpenImage& image) override {
    for (int i = 0; i < 3; ++i) {
      co_await write_some(process, image);
      const std::uint64_t size = random_->below(disk_.size / SectorModel::sector) * SectorModel::sector;
      const Range cut{size, disk_.size - size};
      model_.begin(cut, 0);
      co_await image.edge().truncate(size);
      const bool reserves = !disk_.backing && random_->chance(1, 2);
      const auto how = reserves ? Qcow2Preallocation::metadata : Qcow2Preallocation::off;
      co_await image.driver().resize(disk_.size, how);
      model_.end(cut);
    }
  }

  // Cut off in between.
  Task<> look(OpenImage& image) override {
    const std::uint64_t size = image.edge().size();
    if (size == disk_.size) co_return;
    co_await image.driver().resize(disk_.size, Qcow2Preallocation::off);
    AlignedBuffer regrown(disk_.size - size);
    co_await image.edge().read(size, regrown.bytes());
    if (!is_zero(regrown.bytes())) co_await Error(Errc::corrupt, "what was cut off has come back");
  }
};

// What the image holds is given up: what is below shows, and nothing else ever does.
class Uncovering : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess& process, OpenImage& image) override {
    AlignedBuffer below(disk_.size);
    co_await (*image.driver().backing_place())->read(0, below.bytes());
    const Range all{0, disk_.size}, half{disk_.size / 4, disk_.size / 2};
    for (int i = 0; i < 2; ++i) {
      co_await write_some(process, image);
      co_await image.edge().flush();
      model_.all_durable();
      for (std::uint64_t at = 0; at < disk_.size; at += SectorModel::sector)
        model_.begin({at, SectorModel::sector}, load_be<std::uint64_t>(below.data() + at));
      co_await image.driver().uncover(half);
      co_await image.driver().empty();
      model_.end(all);
      model_.all_durable();
    }
  }
};

// Each time others; after the power cut those of one time, or none.
class Bitmaps : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  static constexpr std::uint64_t granularity = 512;

  Task<> work(SimProcess& process, OpenImage& image) override {
    for (int i = 0; i < 3; ++i) {
      co_await write_some(process, image);
      storing_ = known_ + 1;
      co_await image.driver().store_bitmaps(bitmaps(storing_, image.driver().size()));
      known_ = storing_;
      model_.all_durable();
    }
    co_await write_some(process, image);
  }

  Task<> look(OpenImage& image) override {
    const std::vector<qcow2::BitmapEntry> entries = co_await image.driver().bitmap_entries();
    if (entries.empty()) co_return;
    const std::uint64_t time = number_of(entries[0]);
    if (time != known_ && time != storing_) co_await Error(Errc::corrupt, "bitmaps of long ago have come back");
    const std::vector<Qcow2Bitmap> wanted = bitmaps(time, image.driver().size());
    if (entries.size() != wanted.size()) co_await Error(Errc::corrupt, "bitmaps are missing");
    for (std::size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].name != wanted[i].entry.name) co_await Error(Errc::corrupt, "bitmaps of two times are there");
      const DirtyBitmap bits = co_await image.driver().load_bitmap(entries[i]);
      if (bits != *wanted[i].bits) co_await Error(Errc::corrupt, "bitmap '" + entries[i].name + "' has other bits");
    }
  }

  static std::uint64_t number_of(const qcow2::BitmapEntry& entry) { return std::stoull(entry.name); }

  // Always the same for one time.
  static std::vector<Qcow2Bitmap> bitmaps(std::uint64_t time, std::uint64_t size) {
    Prng random(time);
    std::vector<Qcow2Bitmap> made(1 + random.below(4));
    for (std::size_t i = 0; i < made.size(); ++i) {
      made[i].entry.name = std::to_string(time) + "." + std::to_string(i);
      made[i].entry.granularity_bits = 9;
      DirtyBitmap& bits = made[i].bits.emplace(size, granularity);
      for (int n = 0; n < 20; ++n) {
        const Range dirty{random.below(size / granularity) * granularity, granularity};
        bits.set(dirty);
      }
    }
    return made;
  }

  std::uint64_t known_ = 0, storing_ = 0;
};

Disk few_steps() {
  Disk disk;
  disk.steps = 6;
  return disk;
}
Disk alone() {
  Disk disk = few_steps();
  disk.backing = false;
  return disk;
}
// Tables grow, and there are many.
Disk small_clusters() {
  Disk disk = few_steps();
  disk.cluster_size = 512;
  disk.size = 256 * KiB;
  return disk;
}
Disk lazy() {
  Disk disk = few_steps();
  disk.lazy = true;
  return disk;
}
Disk subclusters() {
  Disk disk = few_steps();
  disk.cluster_size = 16 * KiB;
  disk.extended_l2 = true;
  return disk;
}
Disk with_data_file() {
  Disk disk = few_steps();
  disk.data_file = true;
  return disk;
}
Disk repaired(Disk disk) {
  disk.repaired = true;
  return disk;
}

TEST(Qcow2ChangeCrash, Snapshots) { EXPECT_TRUE(survives<Snapshots>(few_steps())); }
TEST(Qcow2ChangeCrash, SnapshotsOfSmallClusters) { EXPECT_TRUE(survives<Snapshots>(small_clusters())); }
TEST(Qcow2ChangeCrash, SnapshotsOfSubclusters) { EXPECT_TRUE(survives<Snapshots>(subclusters())); }
TEST(Qcow2ChangeCrash, Amendments) { EXPECT_TRUE(survives<Amendments>(few_steps())); }
TEST(Qcow2ChangeCrash, AmendmentsAlone) { EXPECT_TRUE(survives<Amendments>(alone())); }
TEST(Qcow2ChangeCrash, AmendmentsOfSmallClusters) { EXPECT_TRUE(survives<Amendments>(small_clusters())); }
TEST(Qcow2ChangeCrash, ADowngradeWithWideRefcounts) {
  Disk disk = alone();
  disk.steps = 2;
  CrashPlan plan = qcow2_crash_plan();
  plan.seeds = 1;
  plan.ops_max = 1000;
  EXPECT_TRUE(survives_crashes([disk] { return std::make_unique<Downgrade>(disk); }, plan));
}
TEST(Qcow2ChangeCrash, Resizes) { EXPECT_TRUE(survives<Resizes>(few_steps())); }
TEST(Qcow2ChangeCrash, ResizesAlone) { EXPECT_TRUE(survives<Resizes>(alone())); }
TEST(Qcow2ChangeCrash, ResizesOfSubclusters) { EXPECT_TRUE(survives<Resizes>(subclusters())); }
TEST(Qcow2ChangeCrash, Uncovering) { EXPECT_TRUE(survives<Uncovering>(few_steps())); }
TEST(Qcow2ChangeCrash, UncoveringADataFile) { EXPECT_TRUE(survives<Uncovering>(with_data_file())); }
TEST(Qcow2ChangeCrash, Bitmaps) { EXPECT_TRUE(survives<Bitmaps>(few_steps())); }
TEST(Qcow2ChangeCrash, BitmapsOfALazyImage) { EXPECT_TRUE(survives<Bitmaps>(lazy())); }

TEST(Qcow2Repair, AfterSnapshots) { EXPECT_TRUE(survives<Snapshots>(repaired(few_steps()))); }
TEST(Qcow2Repair, AfterResizes) { EXPECT_TRUE(survives<Resizes>(repaired(few_steps()))); }
TEST(Qcow2Repair, AfterBitmaps) { EXPECT_TRUE(survives<Bitmaps>(repaired(few_steps()))); }
TEST(Qcow2Repair, AfterAmendments) { EXPECT_TRUE(survives<Amendments>(repaired(small_clusters()))); }
TEST(Qcow2Repair, OfALazyImage) { EXPECT_TRUE(survives<Resizes>(repaired(lazy()))); }

TEST(Qcow2Misordered, ASnapshotsHeaderBeforeItsTables) {
  expect_caught<Snapshots>(WriteOrder::standard_but(Rule::tables_before_header), few_steps());
}
TEST(Qcow2Misordered, AnAmendmentsHeaderBeforeItsTables) {
  expect_caught<Amendments>(WriteOrder::standard_but(Rule::tables_before_header), few_steps());
}
TEST(Qcow2Misordered, ALazyImageThatDoesNotSaySo) {
  expect_caught<Resizes>(WriteOrder::standard_but(Rule::mark_before_tables), lazy());
}

}  // namespace
}  // namespace tidemark::sim
