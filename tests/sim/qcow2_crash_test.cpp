// qcow2 through power cuts, written to by guests.
#include "tests/sim/qcow2_workload.hpp"

namespace tidemark::sim {
namespace {

using qcow2::WriteOrder;

class Writers : public ImageWorkload {
 public:
  using ImageWorkload::ImageWorkload;

 private:
  Task<> work(SimProcess& process, OpenImage& image) override { return write_some(process, image); }
};

TEST(Qcow2Crash, OverABackingFile) { EXPECT_TRUE(survives<Writers>({})); }

TEST(Qcow2Crash, Alone) {
  Disk disk;
  disk.backing = false;
  EXPECT_TRUE(survives<Writers>(disk));
}

// Many tables, which come and go from small caches.
Disk small_clusters() {
  Disk disk;
  disk.cluster_size = 512;
  disk.size = 512 * KiB;
  disk.steps = 25;
  return disk;
}
TEST(Qcow2Crash, SmallClusters) { EXPECT_TRUE(survives<Writers>(small_clusters())); }

TEST(Qcow2Crash, UsualClusters) {
  Disk disk;
  disk.cluster_size = 64 * KiB;
  disk.size = 2 * MiB;
  EXPECT_TRUE(survives<Writers>(disk));
}

TEST(Qcow2Crash, ExtendedL2) {
  Disk disk;
  disk.cluster_size = 16 * KiB;
  disk.extended_l2 = true;
  EXPECT_TRUE(survives<Writers>(disk));
}

TEST(Qcow2Crash, ADataFile) {
  Disk disk;
  disk.data_file = true;
  EXPECT_TRUE(survives<Writers>(disk));
}

TEST(Qcow2Crash, LazyRefcounts) {
  Disk disk;
  disk.lazy = true;
  EXPECT_TRUE(survives<Writers>(disk));
}

// Content alone tells.
TEST(Qcow2Misordered, TablesBeforeData) {
  Disk disk;
  disk.check = false;
  expect_caught<Writers>(WriteOrder::standard_but(Rule::data_before_tables), disk);
}

TEST(Qcow2Misordered, TablesBeforeRefcounts) { expect_caught<Writers>(WriteOrder::standard_but(Rule::refcounts_before_tables), {}); }

TEST(Qcow2Misordered, NoSyncBetween) { expect_caught<Writers>(WriteOrder(), {}); }

}  // namespace
}  // namespace tidemark::sim
