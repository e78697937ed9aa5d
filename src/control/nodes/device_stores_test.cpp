// The store of a device is found again, whichever names udev has made of the device so far.
#include "control/nodes/device_stores.hpp"

#include "control/nodes/test_device_stores.hpp"
#include "tracking/checksum.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;

struct DeviceStores : DeviceStoresTest {
  DeviceStore find(Names names) {
    auto found = reactor->run(store_of_device(*reactor, top.string(), std::move(names)));
    EXPECT_TRUE(found.ok());
    return found ? *std::move(found) : DeviceStore();
  }
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

// Its device has got a surer name since it was made, and has lost the one that the file has.
TEST_F(DeviceStores, IsFoundByWhatItKnowsItsDeviceBy) {
  make("ata-X", "loop-1-2-0-0");
  EXPECT_EQ(find({"loop-1-2-0-0"}).path, at("ata-X"));
  make("dm-name-old", "dm-uuid-LVM-1");
  EXPECT_EQ(find({"dm-uuid-LVM-1", "dm-name-new"}).path, at("dm-name-old"));
  EXPECT_EQ(find({"dm-uuid-LVM-2", "dm-name-new"}).path, at("dm-uuid-LVM-2"));
  make("wwn-0x5", "wwn-0x5");
  make("wwn-0x5.before-upgrade", "wwn-0x5");
  const DeviceStore found = find({"wwn-0x5"});
  EXPECT_EQ(found.path, at("wwn-0x5"));
  EXPECT_EQ(found.others, Names()) << "a copy that somebody keeps";
}

// A serial number that was given twice: the link leads to one of the two.
TEST_F(DeviceStores, AnotherDevicesIsNoneOfTwo) {
  make("ata-DUP", "wwn-0xA");
  make("wwn-0xB", "wwn-0xB");
  const DeviceStore found = find({"wwn-0xB", "ata-DUP"});
  EXPECT_EQ(found.path, at("wwn-0xB"));
  EXPECT_EQ(found.others, Names());
}

// A volume was renamed, and another one has its name.
TEST_F(DeviceStores, UnderANameThatAnybodyMayGiveItIsTheirsWhomItKnows) {
  make("dm-name-vg0-disk", "dm-uuid-LVM-1");
  EXPECT_EQ(find({"dm-uuid-LVM-1", "dm-name-vg0-disk"}).path, at("dm-name-vg0-disk"));
  EXPECT_EQ(find({"dm-uuid-LVM-2", "dm-name-vg0-disk"}).path, at("dm-uuid-LVM-2"));
  make("dm-uuid-LVM-2", "dm-uuid-LVM-2");
  EXPECT_EQ(find({"dm-uuid-LVM-2", "dm-name-vg0-disk"}).others, Names());
  EXPECT_EQ(find({"dm-name-vg0-disk"}).path, at("dm-name-vg0-disk.2")) << "and stays theirs";
}

// What it was is said when it is opened.
TEST_F(DeviceStores, ADamagedOneIsFoundWhereThereIsNoOther) {
  std::ofstream(top / "ata-7") << "what is left";
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).path, at("ata-7"));
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).unreadable, "");
}

// It may have had more.
TEST_F(DeviceStores, OneThatCannotBeReadMakesTheOtherDoubtful) {
  make("wwn-0x5", "wwn-0x5");
  std::ofstream(top / "ata-7") << "what is left";
  const auto doubtful = [&](const std::string& why) {
    const DeviceStore found = find({"wwn-0x5", "ata-7"});
    EXPECT_EQ(found.path, at("wwn-0x5")) << why;
    EXPECT_EQ(found.others, Names{at("ata-7")}) << why;
    EXPECT_NE(found.unreadable, "") << why;
    return found;
  };
  doubtful("no root");
  EXPECT_FALSE(reactor->run(remove_other_store(*reactor, at("ata-7"))).ok()) << "it is no store by its looks";
  make("ata-7", "ata-7");
  for (const unsigned copy : {0u, 1u}) {
    std::fstream file(top / "ata-7", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(copy * 4096 + 8) << char(9);              // a format of another time
    file.seekg(copy * 4096);
    std::string block(4096, 0);
    file.read(block.data(), 4096);
    const std::uint64_t sum = tracking::checksum(as_bytes(block).first(4096 - 8), 0);
    file.seekp(copy * 4096 + 4096 - 8).write(reinterpret_cast<const char*>(&sum), 8);
  }
  EXPECT_NE(doubtful("version").unreadable.find("version 9"), std::string::npos);
  EXPECT_FALSE(reactor->run(remove_other_store(*reactor, at("ata-7"))).ok());
  files::remove(top / "ata-7");
  files::create_symlink("ata-7", top / "ata-7");
  doubtful("symbolic link");
  files::remove(top / "ata-7");
  EXPECT_EQ(find({"wwn-0x5", "ata-7"}).others, Names());
}

}  // namespace
}  // namespace tidemark
