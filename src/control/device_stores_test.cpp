// The store of a device is found again, whichever names udev has made of the device so far.
#include "control/device_stores.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "io/threads/threads_backend.hpp"
#include "tracking/superblock.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;
using Names = std::vector<std::string>;

struct DeviceStores : testing::Test {
  DeviceStores() {
    std::string made = files::temp_directory_path() / "tidemark-stores-XXXXXX";
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    top = made;
    auto started = make_threads_backend(1);
    EXPECT_TRUE(started.ok());
    backend = *std::move(started);
    reactor = std::make_unique<Reactor>(*backend);
  }
  ~DeviceStores() override { files::remove_all(top); }

  std::string at(const std::string& name) const { return (top / name).string(); }
  // One that knows its device by that name.
  void make(const std::string& name, const std::string& known_by) {
    tracking::Superblock root;
    root.version = 1;
    root.log_bytes = 64 * KiB;
    root.catalogue = {root.data_start(), root.data_start() + 4096};
    root.catalogue_bytes = 4096;
    root.image.is_device = true;
    root.image.stable_id = known_by;
    const auto block = root.encode();
    const std::string_view text = as_text(block);
    std::ofstream(top / name) << text << text;
  }
  DeviceStore find(Names names) {
    auto found = reactor->run(store_of_device(*reactor, top.string(), std::move(names)));
    EXPECT_TRUE(found.ok());
    return found ? *std::move(found) : DeviceStore();
  }

  files::path top;
  std::unique_ptr<IoBackend> backend;
  std::unique_ptr<Reactor> reactor;
};

TEST_F(DeviceStores, ANewOneHasTheSurestName) {
  EXPECT_EQ(find({}).path, "");
  EXPECT_EQ(find({"dm-uuid-LVM-1", "dm-name-vg0-disk"}).path, at("dm-uuid-LVM-1"));
}

TEST_F(DeviceStores, StaysWhereItIsWhenNamesComeAndGo) {
  make("scsi-7", "scsi-7");
  for (const Names& names : {Names{"scsi-7"}, Names{"wwn-0x5", "ata-7", "scsi-7"}, Names{"dm-uuid-mpath-7", "scsi-7"}}) {
    const DeviceStore found = find(names);
    EXPECT_EQ(found.path, at("scsi-7"));
    EXPECT_EQ(found.others, Names());
  }
  make("scsi-7", "wwn-0x5");
  EXPECT_EQ(find({"ata-7", "scsi-7"}).path, at("scsi-7")) << "the store itself says what it thinks of that";
}

TEST_F(DeviceStores, OfTwoNoneIsChosenInSilence) {
  make("ata-7", "wwn-0x5");
  make("scsi-7", "scsi-7");
  const DeviceStore found = find({"wwn-0x5", "ata-7", "scsi-7"});
  EXPECT_EQ(found.path, at("ata-7"));
  EXPECT_EQ(found.others, Names{at("scsi-7")});
  EXPECT_TRUE(reactor->run(remove_other_store(*reactor, found.others.front())).ok());
  EXPECT_EQ(find({"wwn-0x5", "ata-7", "scsi-7"}).others, Names());
  EXPECT_FALSE(files::exists(at("scsi-7")));
}

// A volume was renamed, and another one has its name.
TEST_F(DeviceStores, UnderANameThatAnybodyMayGiveItIsTheirsWhomItKnows) {
  make("dm-name-vg0-disk", "dm-uuid-LVM-1");
  EXPECT_EQ(find({"dm-uuid-LVM-1", "dm-name-vg0-disk"}).path, at("dm-name-vg0-disk"));
  EXPECT_EQ(find({"dm-uuid-LVM-2", "dm-name-vg0-disk"}).path, at("dm-uuid-LVM-2"));
  make("dm-uuid-LVM-2", "dm-uuid-LVM-2");
  EXPECT_EQ(find({"dm-uuid-LVM-2", "dm-name-vg0-disk"}).others, Names());
}

// What it was is said when it is opened.
TEST_F(DeviceStores, ADamagedOneIsFoundWhereThereIsNoOther) {
  std::ofstream(top / "ata-7") << "what is left";
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).path, at("ata-7"));
  make("wwn-0x5", "wwn-0x5");
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).path, at("wwn-0x5"));
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).others, Names());
}

}  // namespace
}  // namespace tidemark
