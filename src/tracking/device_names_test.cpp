// Names of devices, by what a made tree of sysfs tells of them.
#include "tracking/device_names.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "io/threads/threads_backend.hpp"

namespace tidemark::tracking {
namespace {

namespace files = std::filesystem;
using Names = std::vector<std::string>;

struct DeviceNames : testing::Test {
  DeviceNames() {
    std::string made = files::temp_directory_path() / "tidemark-names-XXXXXX";
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    top = made;
    auto started = make_threads_backend(1);
    EXPECT_TRUE(started.ok());
    backend = *std::move(started);
    reactor = std::make_unique<Reactor>(*backend);
  }
  ~DeviceNames() override { files::remove_all(top); }

  void tell(const std::string& file, const std::string& line) {
    const files::path path = top / "device" / file;
    files::create_directories(path.parent_path());
    std::ofstream(path) << line << '\n';
  }
  void forget() { files::remove_all(top / "device"); }
  std::vector<std::string> names(const std::string& of = "", std::optional<LoopFile> shown = {}) {
    files::create_directories(top / "device" / of);
    const std::string told = (top / "device" / of).string();
    std::optional<FileInfo> file;
    if (shown) file = *reactor->run(file_seen(*reactor, told, *shown));
    auto found = reactor->run(names_by_kernel(*reactor, told, file));
    EXPECT_TRUE(found.ok());
    return found ? surest_first(*std::move(found)) : std::vector<std::string>();
  }

  files::path top;
  std::unique_ptr<IoBackend> backend;
  std::unique_ptr<Reactor> reactor;
};

TEST_F(DeviceNames, WhatNothingTellsFromOthersHasNone) {
  EXPECT_EQ(names(), Names());
  tell("serial", "7");
  tell("wwid", "nvme.8086-53-4d-00000001");
  tell("device/wwid", "t10.ATA     QEMU HARDDISK                           QM00001");
  tell("size", "2048");
  EXPECT_EQ(names(), Names());
}

TEST_F(DeviceNames, AreUdevsWhereItHasAnyForTheSame) {
  tell("dm/uuid", "LVM-abc");
  tell("dm/name", "vg0-disk 1");
  EXPECT_EQ(names(), (Names{"dm-uuid-LVM-abc", "dm-name-vg0-disk_1"}));
  tell("dm/uuid", "");
  EXPECT_EQ(names(), (Names{"dm-name-vg0-disk_1"}));
  forget();
  tell("device/wwid", "naa.6001405deadbeef");
  EXPECT_EQ(names(), (Names{"wwn-0x6001405deadbeef"}));
  forget();
  tell("wwid", "eui.0025385b71b0a1c2");
  EXPECT_EQ(names(), (Names{"nvme-eui.0025385b71b0a1c2"}));
  forget();
  tell("md/uuid", "3aaa0122-2982-7cfa-5331-ad66ca767371");
  EXPECT_EQ(names(), (Names{"md-uuid-3aaa0122-2982-7cfa-5331-ad66ca767371"}));
}

TEST_F(DeviceNames, ANumberThatWasNeverGivenIsNone) {
  tell("device/wwid", "naa.0000000000000000");
  tell("wwid", "uuid.00000000-0000-0000-0000-000000000000");
  tell("md/uuid", "00000000-0000-0000-0000-000000000000");
  EXPECT_EQ(names(), Names());
}

TEST_F(DeviceNames, APartitionIsOneOfItsDisk) {
  tell("device/wwid", "naa.5");
  tell("sda2/partition", "2");
  EXPECT_EQ(names("sda2"), (Names{"wwn-0x5-part2"}));
}

TEST_F(DeviceNames, OfCephsImageAndOfEachSnapshotOfIt) {
  tell("device/cluster_fsid", "4e1b");
  tell("device/pool_id", "2");
  tell("device/pool_ns", "");
  tell("device/image_id", "10226b8b4567");
  EXPECT_EQ(names(), Names()) << "it is not said whether it is a snapshot";
  tell("device/current_snap", "-");
  EXPECT_EQ(names(), (Names{"rbd-4e1b-2-10226b8b4567"}));
  tell("device/current_snap", "monday");
  EXPECT_EQ(names(), (Names{"rbd-4e1b-2-10226b8b4567@monday"}));
  tell("device/pool_ns", "tenant");
  EXPECT_EQ(names(), (Names{"rbd-4e1b-2-tenant-10226b8b4567@monday"}));
  tell("device/image_id", "");
  EXPECT_EQ(names(), Names()) << "an image of Ceph's first format has a name only";
}

TEST_F(DeviceNames, OfALoopDeviceAreItsFiles) {
  const files::path image = top / "disk.img";
  const auto attach = [&] {
    tell("loop/backing_file", image.string());
    tell("loop/offset", "0");
    tell("loop/sizelimit", "0");
    tell("size", "16");
  };
  std::ofstream(image) << std::string(8192 + 100, 'x');
  const auto born = reactor->run(fs::stat(*reactor, image.string()));
  ASSERT_TRUE(born.ok());
  if (born->birth_time_ns == 0) GTEST_SKIP() << "this file system does not tell when a file was made";
  const LoopFile shown{born->device, born->inode};
  attach();
  const auto before = names("", shown);
  ASSERT_EQ(before.size(), 1u);
  EXPECT_EQ(telling_of(before[0]), Telling::made);
  files::rename(image, top / "moved.img");
  EXPECT_EQ(names("", shown), Names()) << "what is there no more";
  std::ofstream(image) << std::string(8192 + 100, 'x');
  EXPECT_EQ(names("", shown), Names()) << "another file in its place, of the same size";
  tell("loop/backing_file", (top / "moved.img").string());
  EXPECT_EQ(names("", shown), before);
  tell("size", "17");
  EXPECT_EQ(names("", shown), before) << "the file has grown, and the device does not know";
  tell("loop/offset", "4096");
  EXPECT_NE(names("", shown), before) << "another part of it";
  tell("loop1p2/partition", "2");
  EXPECT_EQ(names("loop1p2", shown), (Names{names("", shown).front() + "-part2"}));
  tell("loop/backing_file", "/dev/null");
  EXPECT_EQ(names("", shown), Names());
}

TEST_F(DeviceNames, APartitionBeginsSomewhere) {
  tell("start", "7");
  const auto start = [&](const std::string& of) { return *reactor->run(start_of(*reactor, (top / of).string())); };
  EXPECT_EQ(start("device"), 0u);
  tell("sda2/partition", "2");
  tell("sda2/start", "2048");
  EXPECT_EQ(start("device/sda2"), 2048u);
}

TEST(Telling, TheSurestIsTheOneThatAVolumeMadeAnewDoesNotHave) {
  EXPECT_EQ(surest_first({}), Names());
  EXPECT_EQ(surest_first({"dm-name-vg0-disk", "dm-uuid-LVM-1"}).front(), "dm-uuid-LVM-1");
  EXPECT_EQ(surest_first({"md-name-host:0", "md-uuid-4", "lvm-pv-uuid-3"}).front(), "md-uuid-4");
  EXPECT_EQ(surest_first({"ata-DISK_7", "lvm-pv-uuid-3"}).front(), "ata-DISK_7");
  EXPECT_EQ(surest_first({"scsi-SQEMU_7", "wwn-0x5"}).front(), "wwn-0x5");
  EXPECT_EQ(surest_first({"dm-uuid-CRYPT-PLAIN-v", "ata-DISK_7"}).front(), "ata-DISK_7");
  EXPECT_EQ(surest_first({"wwn-0x5", "dm-name-a", "ata-b", "wwn-0x5"}), (Names{"wwn-0x5", "ata-b", "dm-name-a"}));
}

// cryptsetup's of a volume that has no UUID is the mapping's name.
TEST(Telling, OfAMappingThatHasAName) {
  EXPECT_EQ(telling_of("dm-uuid-CRYPT-LUKS2-0123456789abcdef0123456789abcdef-v"), Telling::made);
  for (const std::string name : {"CRYPT-PLAIN-v", "CRYPT-TCRYPT-v-1", "CRYPT-LOOPAES-v", "CRYPT-PLAIN-", "CRYPT-", "CRYPT-VERITY-v"})
    EXPECT_EQ(telling_of("dm-uuid-" + name), Telling::named) << name;
}

}  // namespace
}  // namespace tidemark::tracking
