// A device without a name may be any that is away.
#include "control/nodes/nameless_devices.hpp"

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include "control/nodes/test_device_stores.hpp"
#include "tracking/distrust.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;

struct NamelessDevices : DeviceStoresTest {
  Names absent(std::uint64_t size, Names present, bool of_loop = false) {
    auto found = reactor->run(stores_of_absent(*reactor, top.string(), size, std::move(present), of_loop));
    EXPECT_TRUE(found.ok());
    return found ? *std::move(found) : Names();
  }
  Duration waits(const std::string& udev) {
    const Instant before = reactor->now();
    EXPECT_TRUE(reactor->run(await_udev(*reactor, udev, DeviceNumber{7, 3})).ok());
    return reactor->now() - before;
  }
};

TEST_F(NamelessDevices, MayBeAnyOfItsSizeThatIsAway) {
  make("virtio-1", "virtio-1", 64 * MiB);
  make("ata-2", "wwn-0x2", 64 * MiB);
  make("virtio-3", "virtio-3", 65 * MiB);
  std::ofstream(top / "virtio-4") << "what is left";
  make("by-hand", "", 64 * MiB);
  EXPECT_EQ(absent(64 * MiB, {}), (Names{at("ata-2"), at("virtio-1")}));
  EXPECT_EQ(absent(64 * MiB, {"wwn-0x2"}), Names{at("virtio-1")});
  EXPECT_EQ(absent(64 * MiB, {"ata-2", "virtio-1"}), Names());
  EXPECT_EQ(absent(1 * MiB, {}), Names());
}

// Volumes that are not active, virtual machines that are off.
TEST_F(NamelessDevices, IsNoneThatTheKernelWouldName) {
  for (const char* name : {"dm-uuid-LVM-1", "dm-uuid-mpath-1", "md-uuid-1", "loop-1-2-0-0"}) make(name, name, 64 * MiB);
  EXPECT_EQ(absent(64 * MiB, {}), Names{at("dm-uuid-mpath-1")});
  EXPECT_EQ(absent(64 * MiB, {}, true), (Names{at("dm-uuid-mpath-1"), at("loop-1-2-0-0")}));
}

TEST_F(NamelessDevices, UdevIsWaitedForUntilItKnowsTheDevice) {
  using std::chrono::seconds;
  EXPECT_LT(waits(at("none")), seconds(1));
  files::create_directories(top / "udev" / "data");
  std::ofstream(top / "udev" / "control") << "";
  std::ofstream(top / "udev" / "data" / "b7:30") << "another";
  EXPECT_GT(waits(at("udev")), seconds(2));
  std::ofstream(top / "udev" / "data" / "b7:3") << "I:1";
  EXPECT_LT(waits(at("udev")), seconds(1));
}

}  // namespace
}  // namespace tidemark
