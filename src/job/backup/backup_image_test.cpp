// Backups of and to qcow2 images: what the top layer holds, compression, chains of increments, and
// fleecing, where the target stands on the disk that it protects.
#include "block/status.hpp"
#include "filter/snapshot_access.hpp"
#include "format/qcow2/driver.hpp"
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t disk_size = 6 * MiB + 20 * KiB;

class BackupImageTest : public JobsTest {
 protected:
  // A qcow2 image in memory, on `backing` or on nothing.
  BlockNode& image(const std::string& name, BlockNode* backing = nullptr,
                   std::uint64_t cluster_size = 64 * KiB) {
    return *disks->run(make_image(name, backing, cluster_size));
  }
  bool monitor_owned = true;              // images that are made
  Task<BlockNode*> make_image(std::string name, BlockNode* backing, std::uint64_t cluster_size,
                              bool open_backing = true, std::uint32_t version = 3) {
    using P = Permissions;
    NodeOptions file_options;
    file_options.name = "file-" + name;
    file_options.monitor_owned = true;
    MemoryOptions empty;
    BlockNode& file = *co_await disks->graph.add(file_options, *open_memory(empty));
    {
      auto making = Edge::attach(file, Role::root, {P::write | P::resize, P::all}, "test");
      Qcow2CreateOptions create;
      create.size = disk_size;
      create.cluster_size = cluster_size;
      create.version = version;
      if (backing) create.backing_file = "below";
      if (backing) create.backing_format = "qcow2";
      co_await Qcow2Driver::create(**making, create);
    }
    Qcow2OpenOptions open;
    open.caches.l2 = MiB;
    auto edge = Edge::attach(file, Role::file, {}, "test");
    auto driver = co_await Qcow2Driver::open(*std::move(edge), open);
    if (backing && open_backing) driver->set_backing(*Edge::attach(*backing, Role::backing, {}, "test"));
    NodeOptions options;
    options.name = name;
    options.monitor_owned = monitor_owned;
    co_return co_await disks->graph.add(options, std::move(driver));
  }
  Task<> write(BlockNode& node, std::uint64_t offset, std::size_t length) {
    const Content data = disks->random_bytes(length);
    co_await Disks::write_at(node, offset, data);
  }
  Task<std::uint64_t> allocated(BlockNode& node) {
    std::uint64_t total = 0;
    for (std::uint64_t at = 0; at < node.size();) {
      const Range rest{at, node.size() - at};
      const BlockStatus status = co_await block_status_above(node, node.backing(), rest);
      if (status.allocated && status.data) total += status.range.length;
      at = status.range.end();
    }
    co_return total;
  }
  Task<> expect_same(BlockNode& node, const Content& wanted, std::string what) {
    const Content seen = co_await Disks::read_all(node);
    const bool same = seen == wanted;
    EXPECT_TRUE(same) << what;
  }
};

TEST_F(BackupImageTest, TheTopLayerAlone) {
  BlockNode& base = image("base");
  disks->fill(base);
  BlockNode& top = image("top", &base);
  BlockNode& target = image("target", &base);
  run([&]() -> Task<> {
    co_await write(top, 64 * KiB, 4096);
    co_await write(top, 2 * MiB, 256 * KiB);
    const Range zeroed{MiB, 64 * KiB};
    co_await top.driver().write_zeroes(zeroed, WriteFlags::none);
    const Content wanted = co_await Disks::read_all(top);
    co_await start(backup("j", top, target, SyncMode::top));
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with("j completed 393216/393216\nj concluded\nj null\n"));
    co_await expect_same(target, wanted, "the chain");
    EXPECT_EQ(co_await allocated(target), 320 * KiB);
  });
}

TEST_F(BackupImageTest, TheTopLayerWhileAGuestWrites) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    restart(seed);
    BlockNode& base = image("base");
    disks->fill(base);
    BlockNode& top = image("top", &base);
    BlockNode& target = image("target", &base);
    run([&]() -> Task<> {
      for (int i = 0; i < 6; ++i)
        co_await write(top, disks->random.below(90) * 64 * KiB,
                       1 + disks->random.below(64 * KiB) / 512 * 512);
      const Content wanted = co_await Disks::read_all(top);
      Guest guest(*disks, disks->attach(top), wanted);
      const auto both = [&](TaskGroup& group) -> Task<> {
        co_await start(backup("j", top, target, SyncMode::top));
        group.spawn(guest.work(400, 8));
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
      co_await expect_same(target, wanted, "seed " + std::to_string(seed));
    });
  }
}

// A snapshot beneath the backup: what it is about is now one layer further down.
TEST_F(BackupImageTest, TheTopLayerBelowASnapshot) {
  BlockNode& base = image("base");
  disks->fill(base);
  BlockNode& top = image("top", &base);
  BlockNode& overlay = image("overlay");
  BlockNode& target = image("target", &base);
  Edge& guest = disks->attach(top);
  const Content data = disks->random_bytes(64 * KiB);
  run([&]() -> Task<> {
    for (std::uint64_t at = 0; at < 4 * MiB; at += 256 * KiB) co_await write(top, at, 64 * KiB);
    const Content wanted = co_await Disks::read_all(top);
    BackupOptions slowly = backup("j", top, target, SyncMode::top);
    slowly.job.speed = 256 * KiB;
    co_await start(slowly);
    {
      const auto drained = co_await top.graph().drain(top);
      EXPECT_TRUE(top.graph().set_backing(overlay, &top).ok());
      EXPECT_TRUE(top.graph().replace(top, overlay).ok());
    }
    for (std::uint64_t at = 0; at < 4 * MiB; at += MiB) co_await guest.write(at, Buffers::of_const(data));
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with("j concluded\nj null\n"));
    co_await expect_same(target, wanted, "the chain");
  });
}

// An overlay takes a disk's place beneath its backup, and stands on nothing in the end, as after a stream.
TEST_F(BackupImageTest, ADiskThatHasLeftTheChain) {
  for (const bool by_bitmap : {false, true}) {
    restart(by_bitmap);
    BlockNode& top = image("top");
    disks->fill(top);
    BlockNode& overlay = image("overlay");
    BlockNode& target = image("target");
    disks->attach(top);
    run([&]() -> Task<> {
      BackupOptions slowly = backup("j", top, target, by_bitmap ? SyncMode::bitmap : SyncMode::full);
      slowly.job.speed = 256 * KiB;
      if (by_bitmap) {
        NodeBitmap& bitmap = **top.bitmaps().add("b", top.size(), 64 * KiB);
        bitmap.bits().set_all();
        slowly.bitmap = "b";
        slowly.bitmap_mode = BitmapMode::on_success;
      }
      co_await start(slowly);
      Graph& graph = top.graph();
      {
        const auto drained = co_await graph.drain(top);
        EXPECT_TRUE(graph.replace(top, overlay).ok());
      }
      const Result<> removed = co_await graph.remove(top).result();
      EXPECT_EQ(removed.ok(), !by_bitmap) << "its bitmap is in use";
      EXPECT_TRUE(jobs->cancel(job("j"), true).ok());
      co_await end_of("j");
      if (by_bitmap) co_await graph.remove(top);
    });
  }
}

// Nobody uses it any more once the backup has ended, and nobody has added it: it goes.
TEST_F(BackupImageTest, TheLayerBelowLeavesTheChain) {
  monitor_owned = false;
  BlockNode& below = image("below");
  monitor_owned = true;
  disks->fill(below);
  BlockNode& top = image("top", &below);
  BlockNode& target = image("target");
  disks->attach(top);
  run([&]() -> Task<> {
    BackupOptions slowly = backup("j", top, target, SyncMode::top);
    slowly.job.speed = 256 * KiB;
    co_await start(slowly);
    Graph& graph = top.graph();
    {
      const auto drained = co_await graph.drain(top);
      EXPECT_TRUE(graph.set_backing(top, nullptr).ok());
    }
    co_await graph.release(below);
    EXPECT_NE(graph.find("below"), nullptr) << "the backup looks at it";
    EXPECT_TRUE(jobs->cancel(job("j"), true).ok());
    co_await end_of("j");
    EXPECT_EQ(graph.find("below"), nullptr);
  });
}

// The file of an image that goes on being written to grows: what it grows by is not part of the point.
TEST_F(BackupImageTest, TheFileBelowAnImageInUse) {
  BlockNode& disk = image("disk");
  BlockNode& file = disks->node("file-disk");
  Edge& guest = disks->attach(disk);
  const Content wanted = disks->content_of(file);
  const Content data = disks->random_bytes(256 * KiB);
  BlockNode& copy = disks->disk("copy", file.size());
  run([&]() -> Task<> {
    BackupOptions slowly = backup("j", file, copy);
    slowly.job.speed = 64 * KiB;
    co_await start(slowly);
    for (std::uint64_t at = 0; at + data.size() <= 6 * MiB; at += data.size())
      co_await guest.write(at, Buffers::of_const(data));
    co_await guest.flush();
    EXPECT_GT(file.size(), wanted.size());
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with("j concluded\nj null\n"));
    co_await expect_same(copy, wanted, "the file");
  });
}

TEST_F(BackupImageTest, ADiskThatIsCutAndGrows) {
  using P = Permissions;
  BlockNode& source = disks->disk("s", MiB);
  const Content content = disks->random_bytes(MiB);
  disks->run(Disks::write_at(source, 0, content));
  BlockNode& target = disks->disk("t", MiB);
  auto guest = Edge::attach(source, Role::root, {P::consistent_read | P::write | P::resize, P::all}, "guest");
  disks->roots.push_back(*std::move(guest));
  Edge& edge = *disks->roots.back();
  run([&]() -> Task<> {
    co_await start(backup("j", source, target, SyncMode::none));
    co_await edge.truncate(200 * KiB);
    co_await edge.truncate(2 * MiB);
    const Range behind{MiB, MiB};
    co_await edge.write_zeroes(behind);
    co_await edge.discard(behind);
    const Range first{0, 200 * KiB};
    co_await edge.write_zeroes(first);
    co_await expect_same(target, content, "the disk as it was");
  });
}

TEST_F(BackupImageTest, EmptyPartsOfTheTargetStayEmpty) {
  BlockNode& source = image("source");
  BlockNode& target = image("target");
  run([&]() -> Task<> {
    co_await write(source, MiB, 64 * KiB);
    const Content zeroes(256 * KiB);
    co_await Disks::write_at(source, 2 * MiB, zeroes);  // allocated, but all zero
    const Content wanted = co_await Disks::read_all(source);
    co_await start(backup("j", source, target));
    co_await end_of("j");
    co_await expect_same(target, wanted, "the target");
    EXPECT_EQ(co_await allocated(target), 64 * KiB);
  });
}

TEST_F(BackupImageTest, CompressedAtEachClusterSize) {
  for (const std::uint64_t cluster : {512 * 8ul, 64 * KiB, 2 * MiB}) {
    restart(cluster);
    BlockNode& source = disks->disk("s", disk_size);
    const Content half = disks->random_bytes(disk_size / 2 / 512 * 512);
    disks->run(Disks::write_at(source, disk_size - half.size(), half));
    for (std::uint64_t at = 0; at < MiB; at += 4096) {
      const Content text(512, static_cast<std::byte>(at >> 12));
      disks->run(Disks::write_at(source, at, text));
    }
    const Content wanted = disks->content_of(source);
    BlockNode& target = image("target", nullptr, cluster);
    BackupOptions options = backup("j", source, target);
    options.compress = true;
    run([&]() -> Task<> {
      Edge& guest = disks->attach(source);
      co_await start(options);
      const Content data(4096, std::byte{1});
      co_await guest.write(512 * KiB, Buffers::of_const(data));
      co_await end_of("j");
      EXPECT_TRUE(events.take().ends_with("j concluded\nj null\n"));
      co_await expect_same(target, wanted, "clusters of " + std::to_string(cluster));
      const Range start_of_it{0, 64 * KiB};
      const Extent extent = co_await target.driver().map(start_of_it);
      EXPECT_EQ(extent.mapping, Mapping::compressed);
    });
  }
}

TEST_F(BackupImageTest, LargeTargetClustersAreWrittenWhole) {
  BlockNode& base = image("base");
  disks->fill(base);
  BlockNode& target = image("target", &base, 2 * MiB);
  BlockNode& source = disks->disk("s", disk_size);
  const Content wanted = disks->fill(source);
  NodeBitmap& bitmap = **source.bitmaps().add("b", source.size(), 4096);
  bitmap.bits().set({MiB, 4096});
  run([&]() -> Task<> {
    BackupOptions options = backup("j", source, target, SyncMode::incremental);
    options.bitmap = "b";
    co_await start(options);
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with("j completed 2097152/2097152\nj concluded\nj null\n"));
    const Content seen = co_await Disks::read_all(target);
    EXPECT_EQ(std::memcmp(seen.data(), wanted.data(), 2 * MiB), 0);
  });
}

// As a backup directory's increments are written: the image names its base, the job does not open it.
TEST_F(BackupImageTest, ZeroesCoverABackingFileThatIsNotOpen) {
  BlockNode& base = image("base");
  disks->fill(base);
  BlockNode& target = *disks->run(make_image("target", &base, 64 * KiB, false));
  BlockNode& holes = image("holes");
  BlockNode& zeroes = disks->disk("zeroes", disk_size);
  run([&]() -> Task<> {
    for (BlockNode* source : {&holes, &zeroes}) {
      NodeBitmap& bitmap = **source->bitmaps().add("b", source->size(), 64 * KiB);
      const Range dirty{source == &holes ? MiB : 2 * MiB, 256 * KiB};
      bitmap.bits().set(dirty);
      BackupOptions options = backup("j", *source, target, SyncMode::incremental);
      options.bitmap = "b";
      co_await start(options);
      co_await end_of("j");
      const Extent extent = co_await target.driver().map(dirty);
      EXPECT_EQ(extent.mapping, Mapping::zero);
      EXPECT_EQ(extent.range, dirty);
    }
  });
}

// Version 2 cannot say that a cluster is zero: it is written.
TEST_F(BackupImageTest, ZeroesCoverABackingFileThatIsNotOpenInAnOldImageToo) {
  BlockNode& base = image("base");
  disks->fill(base);
  BlockNode& target = *disks->run(make_image("target", &base, 64 * KiB, false, 2));
  BlockNode& source = image("source");
  run([&]() -> Task<> {
    NodeBitmap& bitmap = **source.bitmaps().add("b", source.size(), 64 * KiB);
    const Range dirty{MiB, 256 * KiB};
    bitmap.bits().set(dirty);
    BackupOptions options = backup("j", source, target, SyncMode::incremental);
    options.bitmap = "b";
    co_await start(options);
    co_await end_of("j");
    const Extent extent = co_await target.driver().map(dirty);
    EXPECT_EQ(extent.mapping, Mapping::data);
    EXPECT_EQ(extent.range, dirty);
  });
}

TEST_F(BackupImageTest, AChainOfIncrements) {
  BlockNode& source = disks->disk("s", disk_size);
  FaultRule jitter;
  jitter.jitter_ns = 300'000;
  const Content content = disks->fill(source);
  disks->set_faults("s", {jitter});
  NodeBitmap& bitmap = **source.bitmaps().add("b", source.size(), 64 * KiB);
  bitmap.bits().set_all();
  Guest guest(*disks, disks->attach(source), content);
  run([&]() -> Task<> {
    const auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(guest.work_on(2));
      BlockNode* below = nullptr;
      std::vector<Content> points;
      for (int i = 0; i < 5; ++i) {
        BlockNode& target = *co_await make_image("point" + std::to_string(i), below, 64 * KiB);
        BackupOptions options = backup("j", source, target, SyncMode::incremental);
        options.bitmap = "b";
        {
          const auto drained = co_await disks->graph.drain(source);
          ManagedJob* job = co_await BackupJob::create(*jobs, options);
          points.push_back(co_await Disks::read_all(disks->node("s")));
          jobs->start(*job);
        }
        co_await end_of("j");
        below = &target;
        co_await pass(2);
      }
      guest.stop();
      co_await group.join();
      for (int i = 0; i < 5; ++i)
        co_await expect_same(disks->node("point" + std::to_string(i)),
                             points[static_cast<std::size_t>(i)], "point " + std::to_string(i));
    };
    co_await with_group(disks->process.reactor(), both);
  });
  EXPECT_EQ(guest.failed(), 0u);
}

// The target's backing file is the disk itself: what was not copied is seen through it.
TEST_F(BackupImageTest, Fleecing) {
  for (const bool by_hand : {false, true}) {
    restart(by_hand);
    BlockNode& source = image("source");
    disks->fill(source);
    BlockNode& fleece = image("fleece", &source);
    const Content wanted = disks->content_of(source);
    Edge& guest_edge = disks->attach(source);
    if (by_hand) {
      CopyBeforeWriteOptions options;
      options.file = &source;
      options.target = &fleece;
      BlockNode& filter = disks->add("cbw", disks->run(open_copy_before_write(options)));
      const auto drained = disks->run(disks->graph.drain(source));
      ASSERT_TRUE(disks->graph.replace(source, filter).ok());
    }
    Guest guest(*disks, guest_edge, wanted);
    run([&]() -> Task<> {
      if (!by_hand) co_await start(backup("j", source, fleece, SyncMode::none));
      const auto reader = [&]() -> Task<> {
        for (int i = 0; i < 10; ++i) {
          co_await pass(1);
          // A chain is read layer by layer, not at one moment: only a drained one holds still.
          const auto drained = co_await disks->graph.drain(source);
          co_await expect_same(fleece, wanted, "fleece");
        }
      };
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(300, 6));
        co_await reader();
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
      co_await expect_same(fleece, wanted, "fleece at the end");
    });
    EXPECT_EQ(guest.failed(), 0u);
    EXPECT_EQ(disks->content_of(source) == guest.content, true);
  }
}

}  // namespace
}  // namespace tidemark::test
