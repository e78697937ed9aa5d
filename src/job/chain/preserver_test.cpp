// Commits that preserve what reads from their base: the layers taken out and other images on the base read as they did, while guests
// write to these and to the disk, whatever fails and whenever it is cancelled; and nobody new comes to stand on the base.
#include "tests/support/test_chains.hpp"

namespace tidemark::test {
namespace {

using P = Permissions;

class PreserverTest : public ChainsTest {
 protected:
  // What is committed are c to a, or c to b; `beside` has a guest, and `below` is only read, by an image with a guest.
  struct Chain {
    BlockNode *root, *base, *a, *b, *c, *disk, *beside, *below, *above;
    std::vector<std::pair<BlockNode*, Content>> kept;        // that read so for ever
  };
  std::uint64_t some_size() { return MiB + disks->random.below(400) * 512; }
  Chain chain() {
    const std::uint64_t clusters[] = {4096, 8192, 64 * KiB};
    const auto cluster = [&] { return clusters[disks->random.below(3)]; };
    Chain n{};
    n.root = &layer("root", some_size(), nullptr, cluster());
    n.base = &layer("base", some_size(), n.root, cluster());
    n.a = &layer("a", some_size(), n.base, cluster());
    n.b = &layer("b", some_size(), n.a, cluster());
    n.c = &layer("c", some_size(), n.b, cluster());
    n.disk = &layer("disk", some_size(), n.c, cluster());
    n.beside = &layer("beside", some_size(), n.base, cluster());
    n.below = &layer("below", some_size(), n.base, cluster());
    n.above = &layer("above", some_size(), n.below, cluster());
    for (BlockNode* node : {n.root, n.base, n.a, n.b, n.c, n.disk, n.beside, n.below, n.above}) scribble(*node);
    disks->run(disks->graph.set_read_only(*n.below, true));
    for (BlockNode* node : {n.root, n.a, n.b, n.c, n.below}) n.kept.push_back({node, content(*node)});
    return n;
  }
  void check(const Chain& n, std::uint64_t seed) {
    for (const auto& [node, before] : n.kept) EXPECT_TRUE(content(*node) == before) << node->name() << " seed " << seed;
  }
  CommitOptions preserving(const Chain& n, Preserve how) {
    CommitOptions options = commit("j", *n.disk, *n.c, *n.base);
    options.preserve = how;
    return options;
  }
  void expect_gone() {
    for (const auto& node : disks->graph.nodes()) EXPECT_FALSE(node->name().starts_with('#')) << node->name();
    for (const std::string& name : made_writable) EXPECT_TRUE(name == "below" || name == "not below") << name;
    EXPECT_TRUE(disks->node("below").read_only());
    EXPECT_EQ(made_writable.size() % 2, 0u);
  }
};

TEST_F(PreserverTest, AllReadAsTheyDidWhileGuestsWrite) {
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    restart(seed);
    made_writable.clear();
    const Chain n = chain();
    const Preserve how = seed % 3 == 0 ? Preserve::full : Preserve::on;
    Guest guest(*disks, disks->attach(*n.disk), content(*n.disk)), other(*disks, disks->attach(*n.beside), content(*n.beside)),
        third(*disks, disks->attach(*n.above), content(*n.above));
    if (seed % 4 == 0) disks->set_faults("beside", {slow()});
    run([&]() -> Task<> {
      const auto all = [&](TaskGroup& group) -> Task<> {
        co_await begin(preserving(n, how));
        group.spawn(guest.work(200, 6));
        group.spawn(other.work(200, 6));
        group.spawn(third.work(200, 6));
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), all);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos);
    EXPECT_EQ(guest.failed() + other.failed() + third.failed(), 0u);
    EXPECT_EQ(n.disk->backing(), n.base);
    BlockNode* const stands_on = how == Preserve::full ? n.root : n.base;
    for (BlockNode* node : {n.a, n.beside, n.below}) {
      EXPECT_EQ(node->backing(), stands_on);
      EXPECT_EQ(backing_name_in(*node), how == Preserve::full ? "memory://" : "base.qcow2");
    }
    EXPECT_TRUE(content(*n.disk) == guest.content) << "seed " << seed;
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    EXPECT_TRUE(content(*n.above) == third.content) << "seed " << seed;
    check(n, seed);
    expect_gone();
  }
}

// What guests write to is committed: they are preserved as the disk is at the pivot.
TEST_F(PreserverTest, ACommitOfTheDiskItself) {
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    restart(seed);
    made_writable.clear();
    Chain n = chain();
    BlockNode* const top = seed % 3 == 0 ? n.a : n.disk;             // stands on the base itself, or not
    const bool stays = seed % 4 == 1;
    BlockNode* const user = top == n.a ? n.a : n.disk;
    if (top == n.a) {
      n.kept.erase(n.kept.begin() + 1, n.kept.begin() + 4);
      for (BlockNode* gone : {n.disk, n.c, n.b}) disks->run(disks->graph.remove(*gone));
    }
    Guest guest(*disks, disks->attach(*user), content(*user)), other(*disks, disks->attach(*n.beside), content(*n.beside));
    Edge& root = *disks->roots[0];
    run([&]() -> Task<> {
      const auto all = [&](TaskGroup& group) -> Task<> {
        MirrorOptions options = active_commit("j", *top, *n.base);
        options.commit->preserve = true;
        options.commit->keep_active = stays;
        co_await begin(std::move(options));
        group.spawn(other.work(200, 6));
        if (seed % 2 == 0) co_await guest.work(300, 6);
        else group.spawn(guest.work(300, 6));
        co_await reach("j", JobStatus::ready);
        (void)jobs->complete(job("j"));
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), all);
    });
    EXPECT_TRUE(events.take().find("j completed") != std::string::npos) << seed;
    Content now = content(root.node());
    EXPECT_GE(now.size(), guest.content.size());
    now.resize(guest.content.size());                                // a base that is longer stays so
    EXPECT_TRUE(now == guest.content) << "seed " << seed;
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    const std::vector<BlockNode*> parted{n.beside, n.below, n.a};
    for (BlockNode* node : parted) EXPECT_EQ(node->backing(), stays && node == top ? n.base : n.root) << node->name() << seed;
    const Content before = content(*top);
    EXPECT_EQ(&root.node(), stays ? top : n.base);
    if (seed % 2 == 0) {
      EXPECT_TRUE(before == guest.content) << "seed " << seed;
    }
    if (!stays) {
      // Guests go on, and nobody sees it.
      const Content junk = disks->random_bytes(root.node().size());
      disks->run(Disks::write_at(root.node(), 0, junk));
      EXPECT_TRUE(content(*top) == before) << "seed " << seed;
    }
    check(n, seed);
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    expect_gone();
  }
}

TEST_F(PreserverTest, ACommitOfTheDiskItselfIsCancelled) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    restart(seed);
    made_writable.clear();
    const Chain n = chain();
    for (const char* name : {"a", "base", "beside"}) disks->set_faults(name, {slow()});
    Guest guest(*disks, disks->attach(*n.disk), content(*n.disk)), other(*disks, disks->attach(*n.beside), content(*n.beside));
    run([&]() -> Task<> {
      const auto all = [&](TaskGroup& group) -> Task<> {
        MirrorOptions options = active_commit("j", *n.disk, *n.base);
        options.commit->preserve = true;
        co_await begin(std::move(options));
        group.spawn(guest.work(100, 4));
        group.spawn(other.work(100, 4));
        co_await disks->process.reactor().sleep(Duration(disks->random.below(20'000'000)));
        if (exists("j")) (void)jobs->cancel(job("j"), true);
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), all);
    });
    EXPECT_EQ(n.disk->backing(), n.c);
    EXPECT_EQ(n.a->backing(), n.base);
    EXPECT_TRUE(content(*n.disk) == guest.content) << "seed " << seed;
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    check(n, seed);
    expect_gone();
  }
}

TEST_F(PreserverTest, CancelledAtAnyMomentAndDoneAgain) {
  std::uint64_t before_writing = 0;
  for (std::uint64_t seed = 1; seed <= 16; ++seed) {
    restart(seed);
    made_writable.clear();
    const Chain n = chain();
    const Content base = content(*n.base);
    for (const char* name : {"a", "base", "beside"}) disks->set_faults(name, {slow()});
    Guest guest(*disks, disks->attach(*n.disk), content(*n.disk)), other(*disks, disks->attach(*n.beside), content(*n.beside));
    const Preserve how = seed % 3 == 0 ? Preserve::full : Preserve::on;
    run([&]() -> Task<> {
      const auto all = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest.work(100, 4));
        group.spawn(other.work(100, 4));
        co_await begin(preserving(n, how));
        co_await disks->process.reactor().sleep(Duration(disks->random.below(16'000'000)));
        if (exists("j")) (void)jobs->cancel(job("j"), false);
        co_await end_of("j");
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), all);
    });
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    check(n, seed);
    if (content(*n.base) == base) ++before_writing;
    if (n.disk->backing() == n.c) {
      run([&]() -> Task<> {
        co_await begin(preserving(n, how));
        co_await end_of("j");
      });
    }
    EXPECT_EQ(n.disk->backing(), n.base);
    EXPECT_TRUE(content(*n.disk) == guest.content) << "seed " << seed;
    EXPECT_TRUE(content(*n.beside) == other.content) << "seed " << seed;
    check(n, seed);
    expect_gone();
  }
  EXPECT_GT(before_writing, 0u);
  EXPECT_LT(before_writing, 16u);
}

// Each child's room and each's reading, in the first phase, and the base's in the second.
TEST_F(PreserverTest, ErrorsByPolicy) {
  for (const OnError policy : {OnError::report, OnError::ignore, OnError::stop}) {
    for (const char* where : {"a", "beside", "below", "base"}) {
      for (const Preserve how : {Preserve::on, Preserve::full}) {
        restart(7);
        made_writable.clear();
        const Chain n = chain();
        const Content disk = content(*n.disk), beside = content(*n.beside);
        const FaultRule fault = failing(FaultOp::write, 2, policy == OnError::report ? 1 : 2);
        run([&]() -> Task<> {
          CommitOptions options = preserving(n, how);
          options.on_error = policy;
          options.job.auto_dismiss = false;
          co_await begin(std::move(options));
          disks->set_faults(where, {fault});
          while (job("j").status() != JobStatus::concluded) {
            if (job("j").user_paused()) (void)jobs->resume(job("j"));
            co_await pass(1);
          }
          EXPECT_EQ(job("j").info().error.has_value(), policy == OnError::report) << where;
          (void)jobs->dismiss(job("j"));
          disks->set_faults(where, {});
        });
        EXPECT_NE(events.take().find("error write"), std::string::npos) << where;
        EXPECT_EQ(n.disk->backing(), policy == OnError::report ? n.c : n.base);
        EXPECT_TRUE(content(*n.disk) == disk);
        EXPECT_TRUE(content(*n.beside) == beside);
        check(n, 7);
        expect_gone();
      }
    }
  }
}

// Nothing has been written to the base by then, and nothing is.
TEST_F(PreserverTest, AFlushThatFailsIsTheEnd) {
  for (const char* where : {"a", "beside", "below"}) {
    restart(3);
    made_writable.clear();
    const Chain n = chain();
    for (const auto& node : disks->graph.nodes())
      if (!node->read_only()) disks->run(node->make_durable());
    const Content base = content(*n.base);
    run([&]() -> Task<> {
      CommitOptions options = preserving(n, Preserve::on);
      options.on_error = OnError::ignore;
      co_await begin(std::move(options));
      disks->set_faults(where, {failing(FaultOp::flush, 0, 1)});
      co_await end_of("j");
      disks->set_faults(where, {});
      co_await static_cast<Qcow2Driver&>(disks->node(where).driver()).open_anew();
    });
    EXPECT_NE(events.take().find("Input/output error"), std::string::npos) << where;
    EXPECT_TRUE(content(*n.base) == base) << where;
    check(n, 3);
    expect_gone();
  }
}

TEST_F(PreserverTest, OneThatCannotBeWrittenIsNamed) {
  const Chain n = chain();
  refuses_to_write = "below";
  run([&]() -> Task<> {
    const auto refused = co_await begin(preserving(n, Preserve::on)).result();
    EXPECT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().message(),
              "Node 'below', which stands on 'base', cannot be written to preserve it: Could not open 'below': Permission denied");
  });
  made_writable.clear();
  expect_gone();
  EXPECT_EQ(n.beside->parents().size(), 0u);
}

TEST_F(PreserverTest, NoBitmapIsMarkedButOfTheBase) {
  const Chain n = chain();
  std::vector<NodeBitmap*> bitmaps;
  for (BlockNode* node : {n.a, n.beside, n.below, n.c})
    bitmaps.push_back(*node->bitmaps().add("b", node->size(), 4096));
  NodeBitmap& written = **n.base->bitmaps().add("b", n.base->size(), 4096);
  run([&]() -> Task<> {
    co_await begin(preserving(n, Preserve::on));
    co_await end_of("j");
  });
  for (const NodeBitmap* bitmap : bitmaps) EXPECT_EQ(bitmap->bits().dirty_bytes(), 0u);
  EXPECT_GT(written.bits().dirty_bytes(), 0u);
}

// Whoever comes to stand on the base meanwhile would see it change; who reads a layer that is preserved does not.
TEST_F(PreserverTest, NobodyComesToStandOnTheBase) {
  const Chain n = chain();
  BlockNode& late = layer("late", MiB, nullptr);
  run([&]() -> Task<> {
    CommitOptions options = preserving(n, Preserve::on);
    options.job.speed = 4096;
    co_await begin(std::move(options));
    for (BlockNode* node : {n.base, n.a, n.b, n.c, n.disk, n.beside, n.below}) EXPECT_TRUE(job("j").job().uses(*node)) << node->name();
    EXPECT_FALSE(job("j").job().uses(*n.above));
    const Result<> stood = disks->graph.set_backing(late, n.base);
    EXPECT_FALSE(stood.ok());
    EXPECT_NE(stood.error().message().find("'write below overlays'"), std::string::npos) << stood.error().message();
    EXPECT_EQ(late.backing(), nullptr);
    EXPECT_TRUE(Edge::attach(*n.b, Role::root, {P::consistent_read, P::all}, "a reader").ok());
    for (BlockNode* node : {n.a, n.b, n.c, n.base})
      EXPECT_FALSE(Edge::attach(*node, Role::root, {P::write, P::all}, "a writer").ok()) << node->name();
    EXPECT_FALSE(Edge::attach(*n.beside, Role::root, {P::write, P::all}, "a writer past the filter").ok());
    (void)jobs->cancel(job("j"), true);
    co_await end_of("j");
    EXPECT_TRUE(disks->graph.set_backing(late, n.base).ok());
  });
}

}  // namespace
}  // namespace tidemark::test
