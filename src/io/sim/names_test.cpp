// What a crash leaves of names: each promise of names.hpp, and that what may happen does happen.
#include "io/sim/names.hpp"

#include <gtest/gtest.h>

#include <set>

namespace tidemark {
namespace {

using Type = SimNode::Type;
constexpr int many_seeds = 400;

// A tree for tests: files are told apart by the order of their making, '1', '2'...
class Tree {
 public:
  void make(const std::string& path) {
    SimNodePtr node = names.make(Type::regular);
    labels_[node->inode] = std::to_string(labels_.size() + 1);
    names.set(names.locate(path), node);
  }
  void mkdir(const std::string& path) { names.set(names.locate(path), names.make(Type::directory)); }
  void remove(const std::string& path) { names.set(names.locate(path), nullptr); }
  void rename(const std::string& from, const std::string& to) {
    names.move(names.locate(from), names.locate(to));
  }
  void sync(const std::string& path) {
    names.sync(names.locate(path).node.get(), names.changes_made());
  }
  void sync_all() { names.sync(nullptr, names.changes_made()); }

  // "a=1 d/b=2": every file that there is.
  std::string text() const {
    std::string all;
    add("", *names.locate("/").node, all);
    return all;
  }
  SimNames names;

 private:
  void add(const std::string& prefix, const SimNode& directory, std::string& all) const {
    for (const auto& [name, node] : directory.entries) {
      if (!all.empty()) all += ' ';
      all += prefix + name;
      if (node->is_directory()) add(prefix + name + "/", *node, all += '/');
      else all += "=" + labels_.at(node->inode);
    }
  }
  std::map<std::uint64_t, std::string> labels_;
};

using Outcomes = std::set<std::string>;

template <class Prepare>
Outcomes outcomes(Prepare prepare, SimOptions::Names model = SimOptions::Names::posix) {
  Outcomes found;
  for (int seed = 0; seed < many_seeds; ++seed) {
    Tree tree;
    prepare(tree);
    Prng prng(static_cast<std::uint64_t>(seed));
    tree.names.crash(prng, model);
    const std::string left = tree.text();
    found.insert(left);
    tree.names.crash(prng, model);                // what a crash has left is durable
    EXPECT_EQ(tree.text(), left);
  }
  return found;
}

TEST(SimNames, AFileIsThereAfterItsDirectoryWasSynced) {
  const Outcomes found = outcomes([](Tree& t) {
    t.make("/a");
    t.sync("/");
    t.make("/b");
  });
  const Outcomes expected = {"a=1", "a=1 b=2"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ARenameIsOldOrNew) {
  const Outcomes found = outcomes([](Tree& t) {
    t.make("/a");
    t.make("/b");
    t.sync("/");
    t.rename("/a", "/b");
  });
  const Outcomes expected = {"a=1 b=2", "b=1"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ARenameOfANewFileIsOldOrNewOrNothing) {
  const Outcomes found = outcomes([](Tree& t) {
    t.make("/b");
    t.sync("/");
    t.make("/a");
    t.rename("/a", "/b");
  });
  const Outcomes expected = {"b=1", "a=2 b=1", "b=2"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ARenameThatDidNotHappenIsNotOvertaken) {
  const Outcomes found = outcomes([](Tree& t) {
    t.make("/a");
    t.sync("/");
    t.rename("/a", "/b");
    t.make("/a");
  });
  const Outcomes expected = {"a=1", "b=1", "a=2 b=1"};     // never a=2 alone: 1 would be lost
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ARenameBetweenDirectoriesIsOneChange) {
  const auto move = [](std::string synced) {
    return [synced](Tree& t) {
      t.mkdir("/d");
      t.mkdir("/e");
      t.make("/d/a");
      t.sync_all();
      t.rename("/d/a", "/e/a");
      if (!synced.empty()) t.sync(synced);
    };
  };
  const Outcomes either = {"d/ d/a=1 e/", "d/ e/ e/a=1"}, moved = {"d/ e/ e/a=1"};
  EXPECT_EQ(outcomes(move("")), either);
  EXPECT_EQ(outcomes(move("/d")), moved);
  EXPECT_EQ(outcomes(move("/e")), moved);
}

TEST(SimNames, WhatASyncedChangeBuildsOnIsDurableToo) {
  const Outcomes found = outcomes([](Tree& t) {
    t.mkdir("/d");
    t.mkdir("/e");
    t.sync("/");
    t.make("/d/a");                              // not synced, but /e/b is that file
    t.make("/d/c");
    t.rename("/d/a", "/e/b");
    t.sync("/e");
  });
  const Outcomes expected = {"d/ e/ e/b=1", "d/ d/c=2 e/ e/b=1"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ASyncOfADirectoryIsNotOneOfItsOwnName) {
  const Outcomes found = outcomes([](Tree& t) {
    t.mkdir("/d");
    t.make("/d/a");
    t.sync("/d");
  });
  const Outcomes expected = {"", "d/ d/a=1"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ARemovalMayBeUndone) {
  const Outcomes found = outcomes([](Tree& t) {
    t.mkdir("/d");
    t.make("/d/a");
    t.sync_all();
    t.remove("/d/a");
    t.remove("/d");
  });
  const Outcomes expected = {"d/ d/a=1", "d/", ""};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, ASyncCoversWhatWasBeforeIt) {
  const Outcomes found = outcomes([](Tree& t) {
    t.make("/a");
    const std::uint64_t begun = t.names.changes_made();
    t.make("/b");
    t.names.sync(t.names.locate("/").node.get(), begun);
  });
  const Outcomes expected = {"a=1", "a=1 b=2"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, OrderedNamesAreLostFromTheEnd) {
  const Outcomes found = outcomes(
      [](Tree& t) {
        t.make("/a");
        t.mkdir("/d");
        t.make("/d/b");
        t.remove("/a");
      },
      SimOptions::Names::ordered);
  const Outcomes expected = {"", "a=1", "a=1 d/", "a=1 d/ d/b=2", "d/ d/b=2"};
  EXPECT_EQ(found, expected);
}

TEST(SimNames, PathsLeadWhereLinuxWouldGo) {
  Tree t;
  t.mkdir("/d");
  t.make("/d/a");
  const auto error = [&](const std::string& path) { return t.names.locate(path).error; };
  const auto found = [&](const std::string& path) { return t.names.locate(path).node != nullptr; };
  EXPECT_TRUE(found("/d/a"));
  EXPECT_TRUE(found("d/./a"));
  EXPECT_TRUE(found("//d//../d/a"));
  EXPECT_TRUE(found("/"));
  EXPECT_TRUE(found("/.."));
  EXPECT_FALSE(found("/d/b"));
  EXPECT_EQ(error("/d/b"), 0);
  EXPECT_EQ(error(""), -ENOENT);
  EXPECT_EQ(error("/x/b"), -ENOENT);
  EXPECT_EQ(error("/d/a/b"), -ENOTDIR);
  EXPECT_EQ(error("/d/a/"), -ENOTDIR);
  EXPECT_EQ(error("/" + std::string(256, 'x')), -ENAMETOOLONG);
  EXPECT_EQ(error(std::string(5000, '/')), -ENAMETOOLONG);
  EXPECT_EQ(error(std::string("/d\0", 3)), -EINVAL);
}

}  // namespace
}  // namespace tidemark
