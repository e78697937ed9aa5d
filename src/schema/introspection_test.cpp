// Compares our schema with what QEMU 11's storage daemon answers to query-qmp-schema: what a client
// says to either must mean the same.  Members may be missing from arguments (Tidemark does not do
// them; they are refused) where QEMU has them optional, never where it has them mandatory; what
// Tidemark returns has at least QEMU's mandatory members.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "schema/description.hpp"

namespace tidemark::schema {
namespace {

// What is ours and not QEMU's.
const std::set<std::string> extensions = {
    // Backups whose guests do not wait for the target.
    "query-jobs:[](staging",
    "blockdev-backup(staging-memory",
    "blockdev-backup(staging-budget",
    "blockdev-backup(spill",
    "blockdev-backup(spill-directory",
    "blockdev-backup(on-staging-full",
    "drive-backup(staging-memory",
    "drive-backup(staging-budget",
    "drive-backup(spill",
    "drive-backup(spill-directory",
    "drive-backup(on-staging-full",
    // Checksums of what is read, not of what is read back.
    "blockdev-backup(checksums",
    "drive-backup(checksums",
    // A backup as a mirror with the semantics of its start.
    "blockdev-backup(unmap",
    "blockdev-backup(target-is-zero",
    "drive-backup(unmap",
    "drive-backup(target-is-zero",
    // Disks in use that go back.
    "blockdev-snapshot-revert",
    // Bitmaps of layers below, and since a checkpoint.
    "blockdev-backup(bitmap-node",
    "drive-backup(bitmap-node",
    "blockdev-backup(since",
    "drive-backup(since",
    "block-dirty-bitmap-merge(since",
    "checkpoint-create",
    "checkpoint-delete",
    "query-checkpoints",
    "transaction(actions[].type=checkpoint-create)",
    "transaction(actions[].type=checkpoint-delete)",
    // Clients find a disk in the moment of its point.
    "transaction(actions[].type=block-export-add)",
    // Mirrors of several disks begin at one moment, with backups and bitmaps.
    "transaction(actions[].type=blockdev-mirror)",
    // What chains cost; amendments of more than encryption.
    "query-chain-cost",
    "x-blockdev-amend(options.version",
    "x-blockdev-amend(options.lazy-refcounts",
    "x-blockdev-amend(options.data-file-raw",
    // Commits after which the image on top does no harm.
    "block-commit(keep-active",
    "block-commit(empty-active",
    "block-commit(preserve-removed",
    // Mirrors that go on from where another one ended.
    "blockdev-mirror(bitmap",
    "blockdev-mirror(bitmap-mode",
    "drive-mirror(bitmap",
    "drive-mirror(bitmap-mode",
    "blockdev-add(driver=memory)",
    "blockdev-add(driver=fault)",
    "query-blockstats:[](driver-specific.driver=memory)",
    "query-blockstats:[](driver-specific.driver=fault)",
    "blockdev-add(tracking",
    "block-dirty-bitmap-clear-suspected",
    "TRACKING_STORE_STATUS",
    "query-named-block-nodes:[](dirty-bitmaps[].inconsistent-reason",
    "query-named-block-nodes:[](dirty-bitmaps[].suspected",
    "query-named-block-nodes:[](dirty-bitmaps[].follows-disk",
    "block-dirty-bitmap-add(follows-disk",
};

class Schema {
 public:
  explicit Schema(const Json& entities) {
    for (const Json& entity : entities.as_array())
      by_name_[entity.find("name")->as_string()] = &entity;
  }
  const Json* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }

 private:
  std::map<std::string, const Json*> by_name_;
};

const std::string& text_of(const Json& entity, std::string_view member) {
  return entity.find(member)->as_string();
}

const Json* named(const Json& list, std::string_view key, const std::string& name) {
  for (const Json& item : list.as_array())
    if (item.find(key)->as_string() == name) return &item;
  return nullptr;
}

enum class Direction { in, out };

class Comparison {
 public:
  Comparison(const Schema& ours, const Schema& qemus) : ours_(ours), qemus_(qemus) {}

  void command(const Json& command) {
    const std::string& name = text_of(command, "name");
    const Json* reference = qemus_.find(name);
    if (!reference) {
      EXPECT_TRUE(is_extension(name)) << name;
      return;
    }
    features(command, *reference, name);
    types(text_of(command, "arg-type"), text_of(*reference, "arg-type"), name, Direction::in);
    types(text_of(command, "ret-type"), text_of(*reference, "ret-type"), name + ":",
          Direction::out);
  }
  void event(const Json& event) {
    const std::string& name = text_of(event, "name");
    const Json* reference = qemus_.find(name);
    if (!reference) {
      EXPECT_TRUE(is_extension(name)) << name;
      return;
    }
    types(text_of(event, "arg-type"), text_of(*reference, "arg-type"), name + ":", Direction::out);
  }
  const std::set<std::string>& unused_extensions() const { return unused_; }

 private:
  bool is_extension(const std::string& what) {
    unused_.erase(what);
    return extensions.contains(what);
  }

  void features(const Json& ours, const Json& qemus, const std::string& where) {
    EXPECT_EQ(features_of(ours), features_of(qemus)) << where;
  }
  static std::set<std::string> features_of(const Json& entity) {
    std::set<std::string> names;
    if (const Json* features = entity.find("features"))
      for (const Json& name : features->as_array()) names.insert(name.as_string());
    return names;
  }

  void types(const std::string& ours, const std::string& qemus, const std::string& where,
             Direction direction) {
    if (!seen_.insert(ours + " " + qemus + (direction == Direction::in ? "<" : ">")).second) return;
    const Json* mine = ours_.find(ours);
    const Json* theirs = qemus_.find(qemus);
    ASSERT_TRUE(mine && theirs) << where << ": " << ours << ", " << qemus;
    const std::string& kind = text_of(*mine, "meta-type");
    ASSERT_EQ(kind, text_of(*theirs, "meta-type")) << where;
    if (kind == "builtin")
      EXPECT_EQ(ours, qemus) << where;
    else if (kind == "array")
      types(text_of(*mine, "element-type"), text_of(*theirs, "element-type"), where + "[]",
            direction);
    else if (kind == "enum")
      enums(*mine, *theirs, where);
    else if (kind == "alternate")
      alternates(*mine, *theirs, where, direction);
    else
      objects(*mine, *theirs, where, direction);
  }

  void enums(const Json& mine, const Json& theirs, const std::string& where) {
    for (const Json& value : mine.find("members")->as_array()) {
      const std::string& name = text_of(value, "name");
      const Json* reference = named(*theirs.find("members"), "name", name);
      if (reference)
        features(value, *reference, where + "=" + name);
      else
        EXPECT_TRUE(is_extension(where + "=" + name + ")")) << where << "=" << name;
    }
  }

  // Each alternative is one of QEMU's of the same kind.
  void alternates(const Json& mine, const Json& theirs, const std::string& where,
                  Direction direction) {
    for (const Json& member : mine.find("members")->as_array()) {
      const std::string& kind = text_of(*ours_.find(text_of(member, "type")), "meta-type");
      bool found = false;
      for (const Json& reference : theirs.find("members")->as_array()) {
        const std::string& type = text_of(reference, "type");
        const bool same_builtin = kind != "builtin" || type == text_of(member, "type");
        if (found || text_of(*qemus_.find(type), "meta-type") != kind || !same_builtin) continue;
        found = true;
        types(text_of(member, "type"), type, where, direction);
      }
      EXPECT_TRUE(found) << where << ": " << kind;
    }
  }

  void objects(const Json& mine, const Json& theirs, const std::string& where,
               Direction direction) {
    features(mine, theirs, where);
    const std::string dot =
        where.ends_with(':') || where.find('(') != std::string::npos ? where + "." : where + "(";
    for (const Json& member : mine.find("members")->as_array()) {
      const std::string& name = text_of(member, "name");
      const Json* reference = named(*theirs.find("members"), "name", name);
      if (!reference) {
        EXPECT_TRUE(is_extension(dot + name)) << dot << name << " is not QEMU's";
        continue;
      }
      EXPECT_EQ(member.find("default") != nullptr, reference->find("default") != nullptr)
          << dot << name;
      features(member, *reference, dot + name);
      types(text_of(member, "type"), text_of(*reference, "type"), dot + name, direction);
    }
    for (const Json& reference : theirs.find("members")->as_array()) {
      if (reference.find("default")) continue;
      const std::string& name = text_of(reference, "name");
      EXPECT_NE(named(*mine.find("members"), "name", name), nullptr)
          << dot << name << " is mandatory";
    }
    if (mine.find("tag")) variants(mine, theirs, where, direction);
  }

  void variants(const Json& mine, const Json& theirs, const std::string& where,
                Direction direction) {
    ASSERT_NE(theirs.find("tag"), nullptr) << where;
    EXPECT_EQ(*mine.find("tag"), *theirs.find("tag")) << where;
    for (const Json& variant : mine.find("variants")->as_array()) {
      const std::string& value = text_of(variant, "case");
      const Json* reference = named(*theirs.find("variants"), "case", value);
      if (reference) types(text_of(variant, "type"), text_of(*reference, "type"), where, direction);
    }
  }

  const Schema& ours_;
  const Schema& qemus_;
  std::set<std::string> seen_;
  std::set<std::string> unused_ = extensions;
};

Json read_golden() {
  std::ifstream file(TIDEMARK_GOLDEN "/qsd-11-schema.json");
  std::stringstream text;
  text << file.rdbuf();
  return *parse_json(text.str());
}

TEST(Introspection, WhatIsSaidToQemuMeansTheSameHere) {
  const Json ours = *parse_json(introspection());
  const Json qemus = read_golden();
  const Schema our_schema(ours), qemus_schema(qemus);
  Comparison comparison(our_schema, qemus_schema);
  std::size_t commands = 0;
  for (const Json& entity : ours.as_array()) {
    if (text_of(entity, "meta-type") == "command") comparison.command(entity), ++commands;
    if (text_of(entity, "meta-type") == "event") comparison.event(entity);
  }
  EXPECT_EQ(commands, all_commands().size());
  for (const std::string& unused : comparison.unused_extensions())
    ADD_FAILURE() << unused << " is no extension";
}

TEST(Introspection, EveryTypeThatIsNamedIsDescribedOnce) {
  const Json ours = *parse_json(introspection());
  std::set<std::string> names, used;
  for (const Json& entity : ours.as_array()) {
    EXPECT_TRUE(names.insert(text_of(entity, "name")).second) << text_of(entity, "name");
    for (const char* member : {"arg-type", "ret-type", "element-type"})
      if (const Json* type = entity.find(member)) used.insert(type->as_string());
    for (const char* list : {"members", "variants"})
      if (const Json* items = entity.find(list))
        for (const Json& item : items->as_array())
          if (const Json* type = item.find("type")) used.insert(type->as_string());
  }
  for (const std::string& name : used) EXPECT_TRUE(names.contains(name)) << name;
}

}  // namespace
}  // namespace tidemark::schema
