// Nodes that are only read from now on, or written too; and what writes beyond a threshold tell.
#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

// Says what it was told, and can refuse.
class Switch final : public TestParent {
 public:
  using TestParent::TestParent;
  Task<> set_read_only(bool read_only) override {
    told.push_back(read_only);
    if (refuses) co_await Error(Errc::io, "refused");
  }
  std::vector<bool> told;
  bool refuses = false;
};

class ReopenTest : public BlockTest {
 protected:
  Switch& add_switch(std::string name, std::vector<Child> below, NodeOptions options = {}) {
    auto driver = std::make_unique<Switch>(reactor, TestDriverOptions{});
    for (const Child& child : below)
      driver->children.push_back(*Edge::attach(*child.node, child.role, {}, "node '" + name + "'"));
    Switch& added = *driver;
    add(std::move(name), std::move(driver), std::move(options));
    return added;
  }
  void set_read_only(std::string_view name, bool read_only) { run(graph.set_read_only(node(name), read_only)); }
  static NodeOptions owned() {
    NodeOptions options;
    options.monitor_owned = true;
    return options;
  }
};

TEST_F(ReopenTest, WhatANodeHasForItselfFollows) {
  Switch& file = add_switch("file", {});
  Switch& image = add_switch("image", {{&node("file"), Role::file}});
  set_read_only("image", true);
  EXPECT_TRUE(node("image").read_only());
  EXPECT_TRUE(node("file").read_only());
  EXPECT_EQ(image.told, std::vector<bool>{true});
  EXPECT_EQ(node("file").parents().front()->permissions().uses & Permissions::write, 0);
  set_read_only("image", false);
  EXPECT_FALSE(node("image").read_only());
  EXPECT_FALSE(node("file").read_only());
  EXPECT_EQ(file.told, (std::vector<bool>{true, false}));
  EXPECT_NE(node("file").parents().front()->permissions().uses & Permissions::write, 0);
}

TEST_F(ReopenTest, WhatOthersHaveDoesNot) {
  add_switch("mine", {}, owned());
  NodeOptions asked;
  asked.read_only_fixed = true;
  add_switch("fixed", {}, asked);
  add_switch("below", {});
  add_switch("image", {{&node("mine"), Role::file}, {&node("fixed"), Role::data_file}, {&node("below"), Role::backing}});
  set_read_only("image", true);
  for (const char* name : {"mine", "fixed", "below"}) EXPECT_FALSE(node(name).read_only()) << name;
}

TEST_F(ReopenTest, NobodyIsLeftWhoWrites) {
  add_switch("image", {});
  attach(node("image"));
  const Error error = error_of(graph.set_read_only(node("image"), true));
  EXPECT_EQ(error.message(), "Read-only block node 'image' cannot support read-write users");
  EXPECT_FALSE(node("image").read_only());
}

TEST_F(ReopenTest, NothingIsWrittenThroughStorageThatIsOnlyRead) {
  NodeOptions read_only = owned();
  read_only.read_only = true;
  add_switch("file", {}, read_only);
  NodeOptions also;
  also.read_only = true;
  Switch& image = add_switch("image", {{&node("file"), Role::file}}, also);
  EXPECT_EQ(error_of(graph.set_read_only(node("image"), false)).message(), "Block node is read-only");
  EXPECT_TRUE(node("image").read_only());
  EXPECT_TRUE(image.told.empty());
}

TEST_F(ReopenTest, ARefusalLeavesAllAsItWas) {
  NodeOptions read_only;
  read_only.read_only = true;
  Switch& file = add_switch("file", {}, read_only);
  Switch& image = add_switch("image", {{&node("file"), Role::file}}, read_only);
  image.refuses = true;
  EXPECT_EQ(error_of(graph.set_read_only(node("image"), false)).message(), "refused");
  EXPECT_TRUE(node("image").read_only());
  EXPECT_TRUE(node("file").read_only());
  EXPECT_EQ(file.told, (std::vector<bool>{false, true}));
}

TEST_F(ReopenTest, AStorageThatCannotFollowStaysWritable) {
  Switch& file = add_switch("file", {});
  file.refuses = true;
  add_switch("image", {{&node("file"), Role::file}});
  set_read_only("image", true);
  EXPECT_TRUE(node("image").read_only());
  EXPECT_FALSE(node("file").read_only());
}

TEST_F(ReopenTest, WhatWasWrittenIsFlushedFirst) {
  TestDriver& disk = add_disk("disk");
  Edge& user = attach(node("disk"));
  std::vector<std::byte> data = bytes_of(512, 1);
  run(user.write(0, MutableBytes(data)));
  roots.clear();
  set_read_only("disk", true);
  EXPECT_EQ(disk.count(Call::flush), 1u);
}

TEST_F(ReopenTest, AThresholdIsToldOnce) {
  std::vector<std::string> told;
  graph.listeners().threshold = [&](const std::string& name, std::uint64_t threshold, std::uint64_t exceeded) {
    told.push_back(name + " " + std::to_string(threshold) + " " + std::to_string(exceeded));
  };
  add_disk("disk");
  Edge& user = attach(node("disk"));
  std::vector<std::byte> data = bytes_of(1024, 1);
  node("disk").set_write_threshold(2048);
  run(user.write(1024, MutableBytes(data)));
  EXPECT_TRUE(told.empty());
  run(user.write(1536, MutableBytes(data)));
  run(user.write(4096, MutableBytes(data)));
  EXPECT_EQ(told, std::vector<std::string>{"disk 2048 512"});
  EXPECT_EQ(node("disk").write_threshold(), 0u);
  EXPECT_EQ(node("disk").stats().write_highest, 5120u);
  node("disk").set_write_threshold(2048);
  node("disk").set_write_threshold(0);
  run(user.write(4096, MutableBytes(data)));
  EXPECT_EQ(told.size(), 1u);
}

}  // namespace
}  // namespace tidemark::test
