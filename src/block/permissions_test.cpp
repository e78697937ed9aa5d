// Who may do what to a node: conflicts, how they pass through formats and filters, and that a
// refused change leaves everything as it was.
#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

class PermissionsTest : public BlockTest {
 protected:
  Result<> try_attach(BlockNode& node, Permissions permissions) {
    auto edge = Edge::attach(node, Role::root, permissions, "block job 'late'");
    if (!edge) return edge.error();
    roots.push_back(*std::move(edge));
    return {};
  }
  static constexpr Permissions reader{P::consistent_read, P::all};
  static constexpr Permissions writer{P::consistent_read | P::write, P::all};
  static constexpr Permissions sole_writer{P::consistent_read | P::write, P::consistent_read};
};

TEST_F(PermissionsTest, NamesOfSets) {
  EXPECT_EQ(permission_names(P::consistent_read), "consistent read");
  EXPECT_EQ(permission_names(P::write | P::resize), "write, resize");
}

TEST_F(PermissionsTest, SharersLiveSideBySide) {
  add_disk("disk");
  EXPECT_TRUE(try_attach(node("disk"), writer).ok());
  EXPECT_TRUE(try_attach(node("disk"), writer).ok());
  EXPECT_TRUE(try_attach(node("disk"), reader).ok());
}

TEST_F(PermissionsTest, AConflictNamesBothUsers) {
  add_disk("disk");
  attach(node("disk"), sole_writer, "export 'first'");
  const Result<> late = try_attach(node("disk"), writer);
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code(), Errc::busy);
  EXPECT_EQ(late.error().message(),
            "Permission conflict on node 'disk': permissions 'write' are both required by "
            "block job 'late' (uses node 'disk' as 'root' child) and unshared by "
            "export 'first' (uses node 'disk' as 'root' child).");
  EXPECT_EQ(node("disk").parents().size(), 1u);
  EXPECT_TRUE(try_attach(node("disk"), reader).ok());
}

TEST_F(PermissionsTest, TheOlderUserMayBeTheOneThatNeedsIt) {
  add_disk("disk");
  attach(node("disk"), writer, "export 'first'");
  const Result<> late = try_attach(node("disk"), {P::consistent_read, P::consistent_read});
  ASSERT_FALSE(late.ok());
  EXPECT_NE(late.error().message().find("required by export 'first'"), std::string::npos);
  EXPECT_NE(late.error().message().find("unshared by block job 'late'"), std::string::npos);
}

TEST_F(PermissionsTest, AFormatOwnsItsStorage) {
  add_disk("file");
  add_parent("fmt", {{&node("file"), Role::file}});
  const Result<> late = try_attach(node("file"), writer);
  ASSERT_FALSE(late.ok());
  EXPECT_NE(
      late.error().message().find("unshared by node 'fmt' (uses node 'file' as 'file' child)"),
      std::string::npos)
      << late.error().message();
  EXPECT_TRUE(try_attach(node("file"), reader).ok());
}

TEST_F(PermissionsTest, ABackingFileMayNotChangeUnderItsOverlay) {
  add_disk("base");
  add_disk("file");
  add_parent("overlay", {{&node("file"), Role::file}, {&node("base"), Role::backing}});
  attach(node("overlay"), {P::consistent_read | P::write, P::consistent_read}, "guest");
  EXPECT_EQ(try_attach(node("base"), writer).error().code(), Errc::busy);
  EXPECT_TRUE(try_attach(node("base"), {P::consistent_read | P::write_unchanged, P::all}).ok());
}

TEST_F(PermissionsTest, FiltersPassPermissionsThrough) {
  add_disk("disk");
  add_parent("throttle", {{&node("disk"), Role::filtered}}, true);
  EXPECT_TRUE(try_attach(node("disk"), writer).ok());  // nobody uses the filter yet
  const Result<> late = try_attach(node("throttle"), sole_writer);
  ASSERT_FALSE(late.ok());
  EXPECT_NE(late.error().message().find("node 'throttle'"), std::string::npos);
  // The refusal changed nothing: what the filter takes of the disk is what it was.
  EXPECT_EQ(node("throttle").parents().size(), 0u);
  EXPECT_TRUE(try_attach(node("disk"), {P::write, P::write | P::consistent_read}).ok());
}

TEST_F(PermissionsTest, PermissionsOfAFilterFollowItsUsers) {
  add_disk("disk");
  add_parent("throttle", {{&node("disk"), Role::filtered}}, true);
  Edge& child = *node("throttle").child(Role::filtered);
  attach(node("throttle"), sole_writer);
  EXPECT_EQ(child.permissions(), sole_writer);
  roots.clear();
  EXPECT_EQ(child.permissions(), Permissions{});
}

TEST_F(PermissionsTest, ChangingPermissionsIsAllOrNothing) {
  add_disk("disk");
  Edge& first = attach(node("disk"), reader, "first");
  attach(node("disk"), writer, "second");
  EXPECT_EQ(first.set_permissions({P::consistent_read, P::consistent_read}).error().code(),
            Errc::busy);
  EXPECT_EQ(first.permissions(), reader);
  EXPECT_TRUE(first.set_permissions(writer).ok());
  EXPECT_EQ(first.permissions(), writer);
}

TEST_F(PermissionsTest, DetachingFreesThePermissions) {
  add_disk("disk");
  attach(node("disk"), sole_writer);
  EXPECT_FALSE(try_attach(node("disk"), writer).ok());
  roots.clear();
  EXPECT_TRUE(try_attach(node("disk"), writer).ok());
}

TEST_F(PermissionsTest, AUserOfTwoPathsToADiskConflictsWithItself) {
  add_disk("disk");
  add_parent("raw", {{&node("disk"), Role::file}});
  const Result<> late = try_attach(node("disk"), {P::resize, P::all});
  ASSERT_FALSE(late.ok());
  EXPECT_NE(late.error().message().find("permissions 'resize'"), std::string::npos);
}

TEST_F(PermissionsTest, TheDriverHearsThatTheLastWriterHasGone) {
  const TestDriver& file = add_disk("file");
  const TestDriver& other = add_disk("other");
  add_parent("filter", {{&node("file"), Role::filtered}}, true);
  attach(node("filter"), reader);
  Edge& first = attach(node("filter"), writer);
  attach(node("filter"), writer);
  EXPECT_TRUE(first.set_permissions(reader).ok());
  EXPECT_EQ(file.let_go, 0);                                 // one is left
  roots.pop_back();
  EXPECT_EQ(file.let_go, 1);
  EXPECT_EQ(disk(node("filter")).let_go, 1);
  EXPECT_TRUE(first.set_permissions(writer).ok());
  EXPECT_FALSE(try_attach(node("filter"), {P::none, P::consistent_read}).ok());
  EXPECT_EQ(file.let_go, 1);                                 // what is refused has not happened
  EXPECT_TRUE(first.retarget(node("other")).ok());
  EXPECT_EQ(file.let_go, 2);
  EXPECT_EQ(other.let_go, 0);
  roots.clear();
  EXPECT_EQ(file.let_go, 2);                                 // a reader is no writer
  EXPECT_EQ(other.let_go, 1);
}

// Somebody may write to it before, in between and after.
TEST_F(PermissionsTest, WriterThatGoesToAFilterIsStillThere) {
  const TestDriver& file = add_disk("file");
  attach(node("file"), writer);
  add_parent("filter", {{&node("file"), Role::filtered}}, true);
  EXPECT_TRUE(graph.replace(node("file"), node("filter")).ok());
  EXPECT_TRUE(graph.replace(node("filter"), node("file")).ok());
  EXPECT_EQ(file.let_go, 0);
}

}  // namespace
}  // namespace tidemark::test
