// What is done to images offline, cut off at any write: sectors that were not flushed are there or not, each by chance.
#include <gtest/gtest.h>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/check/offline.hpp"
#include "format/qcow2/driver.hpp"
#include "format/qcow2/layout/refcount_slice.hpp"
#include "io/threads/threads_backend.hpp"

namespace tidemark::qcow2 {
namespace {

using Content = std::vector<std::byte>;
using P = Permissions;
constexpr Permissions writing{P::consistent_read | P::write | P::resize, P::all};

struct Event {
  enum class Kind : std::uint8_t { write, flush, truncate } kind;
  std::uint64_t at = 0;                    // or the new size
  Content bytes;
};

// A file in memory that remembers what was done to it.  One write fails, with `fails` of them to go, its first sector
// written.
class Recorder final : public BlockDriver {
 public:
  Recorder(Reactor& reactor, Content& content, std::vector<Event>& log, std::optional<std::size_t>& fails)
      : BlockDriver(reactor), content_(content), log_(log), fails_(fails) {}
  std::string_view name() const noexcept override { return "recorder"; }
  std::uint64_t size() const noexcept override { return content_.size(); }
  Task<Extent> map(Range wanted) override { co_return Extent{wanted, Mapping::data, wanted.offset}; }
  Task<> read(std::uint64_t offset, Buffers into) override {
    const std::uint64_t there = std::min<std::uint64_t>(into.size(), content_.size() - offset);
    into.fill_zero();
    into.first(there).copy_from(Bytes(content_).subspan(offset, there));
    co_return;
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags) override {
    const bool fails = fails_ && (*fails_)-- == 0;
    if (fails) {
      fails_.reset();
      from = from.first(std::min<std::size_t>(from.size(), sector_size));
    }
    Content bytes(from.size());
    from.copy_to(MutableBytes(bytes));
    if (content_.size() < offset + bytes.size()) content_.resize(offset + bytes.size());
    std::copy(bytes.begin(), bytes.end(), content_.begin() + static_cast<std::ptrdiff_t>(offset));
    log_.push_back({Event::Kind::write, offset, std::move(bytes)});
    if (fails) co_await Error(Errc::io, "the disk is out of order");
  }
  Task<> flush() override {
    log_.push_back({Event::Kind::flush, 0, {}});
    co_return;
  }
  Task<> truncate(std::uint64_t size, Growth) override {
    content_.resize(size);
    log_.push_back({Event::Kind::truncate, size, {}});
    co_return;
  }
  Task<ImageInfo> info() override { co_return ImageInfo(); }
  Task<> close() override { co_return; }

 private:
  Content& content_;
  std::vector<Event>& log_;
  std::optional<std::size_t>& fails_;
};

void put(Content& content, const Event& event, Prng* tear) {
  if (event.kind == Event::Kind::truncate) content.resize(event.at);
  if (event.kind != Event::Kind::write) return;
  if (content.size() < event.at + event.bytes.size()) content.resize(event.at + event.bytes.size());
  for (std::size_t at = 0; at < event.bytes.size(); at += sector_size) {
    if (tear && tear->below(2) == 0) continue;
    const std::size_t length = std::min<std::size_t>(sector_size, event.bytes.size() - at);
    std::memcpy(content.data() + event.at + at, event.bytes.data() + at, length);
  }
}

// The file after the first `n` events and a power cut.
Content after_crash(Content content, const std::vector<Event>& log, std::size_t n, Prng& random) {
  std::size_t durable = n;
  while (durable > 0 && log[durable - 1].kind != Event::Kind::flush) --durable;
  for (std::size_t i = 0; i < n; ++i) put(content, log[i], i < durable ? nullptr : &random);
  return content;
}

class Crash : public ::testing::Test {
 protected:
  using Work = std::function<Task<>(Edge& file)>;

  // Runs the work on the content, which changes.
  std::vector<Event> run(Content& content, Work work) {
    std::vector<Event> log;
    auto all = [&]() -> Task<> {
      Graph graph(reactor_);
      NodeOptions options;
      BlockNode* node = co_await graph.add(options, std::make_unique<Recorder>(reactor_, content, log, fails_));
      auto edge = co_await unwrap(Edge::attach(*node, Role::root, writing, "test"));
      auto done = co_await work(*edge).result();
      edge.reset();
      co_await graph.close_all();
      co_await unwrap(done);
    };
    auto done = reactor_.run(all());
    EXPECT_TRUE(done.ok()) << done.error().message();
    return log;
  }

  CheckReport check(Content& content, Repair repair = Repair::nothing) {
    CheckReport report;
    Work work = [&](Edge& file) -> Task<> {
      CheckOptions options;
      options.repair = repair;
      report = co_await check_image(file, std::move(options));
    };
    run(content, work);
    return report;
  }

  // With the driver open on the file.
  Work with_image(std::function<Task<>(Qcow2Driver&)> body) {
    return [body](Edge& file) -> Task<> {
      auto own = co_await unwrap(Edge::attach(file.node(), Role::file, writing, "an image"));
      Qcow2OpenOptions options;
      options.keeps_content = true;
      auto driver = co_await Qcow2Driver::open(std::move(own), options);
      auto done = co_await body(*driver).result();
      auto closed = co_await driver->close().result();
      co_await unwrap(done);
      co_await unwrap(closed);
    };
  }

  Content image(std::uint64_t cluster_size = 4096) {
    Content content;
    Work create = [=](Edge& file) -> Task<> {
      Qcow2CreateOptions options;
      options.size = 4 * MiB;
      options.cluster_size = cluster_size;
      options.backing_file = "a-name.raw";
      options.backing_format = "raw";
      co_await Qcow2Driver::create(file, options);
    };
    run(content, create);
    auto fill = [](Qcow2Driver& driver) -> Task<> {
      Content data(40000, std::byte{7});
      for (std::uint64_t at = 0; at < 4 * MiB; at += 512 * KiB) co_await driver.write(at, Buffers(MutableBytes(data)), WriteFlags::none);
    };
    run(content, with_image(fill));
    return content;
  }

  // The work, cut off everywhere, a few times each; `judge` says what holds then.
  void cut(const Content& before, Work work, std::function<void(Content&)> judge) {
    Content content = before;
    const std::vector<Event> log = run(content, work);
    ASSERT_GT(log.size(), 2u);
    Prng random(1);
    for (std::size_t n = 0; n <= log.size(); ++n)
      for (int turn = 0; turn < 3; ++turn) {
        SCOPED_TRACE(std::to_string(n) + " of " + std::to_string(log.size()));
        Content crashed = after_crash(before, log, n, random);
        judge(crashed);
        if (HasFailure()) return;
      }
  }

  std::unique_ptr<IoBackend> backend_ = *make_threads_backend();
  Reactor reactor_{*backend_};
  std::optional<std::size_t> fails_;
};

std::vector<std::string> names_of(const std::vector<BitmapEntry>& entries) {
  std::vector<std::string> names;
  for (const BitmapEntry& entry : entries) names.push_back(entry.name);
  return names;
}

std::function<Task<>(Qcow2Driver&)> store(std::vector<std::string> names) {
  return [names](Qcow2Driver& driver) -> Task<> {
    std::vector<Qcow2Bitmap> bitmaps;
    for (const std::string& name : names) {
      Qcow2Bitmap bitmap;
      bitmap.entry.name = name;
      bitmap.bits.emplace(driver.size(), 64 * KiB);
      const Range dirty{128 * KiB, 1 * MiB};
      bitmap.bits->set(dirty);
      bitmaps.push_back(std::move(bitmap));
    }
    co_await driver.store_bitmaps(std::move(bitmaps));
  };
}

TEST_F(Crash, BitmapsAreTheOldTheNewOrNone) {
  const std::vector<std::string> none, old{"one", "two"}, now{"two", "three", "four"};
  Content content = image();
  run(content, with_image(store(old)));
  ASSERT_TRUE(check(content).clean());
  auto judge = [&](Content& crashed) {
    EXPECT_EQ(check(crashed).corruptions, 0u);
    std::vector<std::string> found;
    auto look = [&](Qcow2Driver& driver) -> Task<> {
      const auto entries = co_await driver.bitmap_entries();
      found = names_of(entries);
      EXPECT_EQ(driver.backing_file(), "a-name.raw");
    };
    run(crashed, with_image(look));
    EXPECT_TRUE(found == old || found == now || found == none);
  };
  cut(content, with_image(store(now)), judge);
  Content last = content;
  run(last, with_image(store(now)));
  EXPECT_TRUE(check(last).clean());
  run(last, with_image(store(none)));
  EXPECT_TRUE(check(last).clean());
}

// Cut off anywhere, one that is not in use is what was stored.
TEST_F(Crash, BitmapsBeingPutInUseTellTheTruth) {
  std::vector<std::string> names;
  for (int i = 0; i < 40; ++i) names.push_back("a-bitmap-with-a-name-that-makes-the-directory-long-" + std::to_string(i));
  Content content = image();
  run(content, with_image(store(names)));
  auto use = [](Qcow2Driver& driver) -> Task<> { return driver.use_bitmaps(); };
  std::size_t in_use = 0;
  auto judge = [&](Content& crashed) {
    EXPECT_TRUE(check(crashed).clean());
    auto look = [&](Qcow2Driver& driver) -> Task<> {
      const auto entries = co_await driver.bitmap_entries();
      EXPECT_EQ(names_of(entries), names);
      for (const BitmapEntry& entry : entries) {
        in_use += entry.in_use();
        if (entry.in_use()) continue;
        const DirtyBitmap bits = co_await driver.load_bitmap(entry);
        EXPECT_EQ(bits.dirty_bytes(), 1 * MiB);
      }
    };
    run(crashed, with_image(look));
  };
  cut(content, with_image(use), judge);
  EXPECT_GT(in_use, 0u);
  run(content, with_image(use));
  in_use = 0;
  judge(content);
  EXPECT_EQ(in_use, names.size());
}

// Nothing else is changed that would have their refcounts written.
TEST_F(Crash, BitmapsOfALazyImageAreCounted) {
  Content content;
  Work create = [](Edge& file) -> Task<> {
    Qcow2CreateOptions options;
    options.size = 4 * MiB;
    options.lazy_refcounts = true;
    co_await Qcow2Driver::create(file, options);
  };
  run(content, create);
  run(content, with_image(store({"one"})));
  EXPECT_TRUE(check(content).clean());
}

// What the header says and what memory has of it are the same after any write that failed.
TEST_F(Crash, BitmapsAreStoredAfterAWriteFailed) {
  const std::vector<std::string> old{"one", "two"}, now{"two", "three", "four"};
  Content content = image();
  run(content, with_image(store(old)));
  std::size_t failures = 0;
  for (std::size_t n = 0; failures == n; ++n) {
    SCOPED_TRACE(n);
    Content failed = content;
    const auto change = store(now);
    auto twice = [&](Qcow2Driver& driver) -> Task<> {
      fails_ = n;
      const Result<> first = co_await change(driver).result();
      failures += !first.ok();
      fails_.reset();
      co_await change(driver);
      const auto entries = co_await driver.bitmap_entries();
      EXPECT_EQ(names_of(entries), now);
    };
    run(failed, with_image(twice));
    EXPECT_EQ(check(failed).corruptions, 0u);
    auto look = [&](Qcow2Driver& driver) -> Task<> {
      const auto entries = co_await driver.bitmap_entries();
      EXPECT_EQ(names_of(entries), now);
      EXPECT_EQ(driver.backing_file(), "a-name.raw");
    };
    run(failed, with_image(look));
    if (HasFailure()) return;
  }
  EXPECT_GT(failures, 8u);
}

TEST_F(Crash, TheBackingNameIsTheOldOrTheNew) {
  for (const std::string name : {"b", "another-name-that-is-much-longer-than-the-old-one.qcow2", ""}) {
    Work change = [&](Edge& file) -> Task<> { return change_backing(file, name, name.empty() ? "" : "qcow2"); };
    auto judge = [&](Content& crashed) {
      EXPECT_TRUE(check(crashed).clean());
      auto look = [&](Qcow2Driver& driver) -> Task<> {
        EXPECT_TRUE(driver.backing_file() == "a-name.raw" || driver.backing_file() == name) << driver.backing_file();
        co_return;
      };
      run(crashed, with_image(look));
    };
    cut(image(), change, judge);
  }
}

TEST_F(Crash, AnImageBeingEmptiedHasLeaksAtMost) {
  Work empty = [](Edge& file) -> Task<> { return empty_image(file); };
  auto judge = [&](Content& crashed) {
    EXPECT_TRUE(check(crashed, Repair::all).clean());
  };
  cut(image(), empty, judge);
}

TEST_F(Crash, ARepairCanBeginAgain) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    Content broken = image(), whole = broken;
    Prng random(seed);
    const std::uint64_t table = load_be<std::uint64_t>(broken.data() + 48), block = load_be<std::uint64_t>(broken.data() + table);
    for (int i = 0; i < 10; ++i) set_refcount_entry(broken.data() + block, random.below(whole.size() / 4096), 4, random.below(4));
    if (seed % 4 == 0) store_be(broken.data() + table, std::uint64_t{512});       // needs a new structure
    Work repair = [](Edge& file) -> Task<> {
      CheckOptions options;
      options.repair = Repair::all;
      const CheckReport report = co_await check_image(file, std::move(options));
      EXPECT_TRUE(report.clean());
    };
    auto judge = [&](Content& crashed) {
      EXPECT_TRUE(check(crashed, Repair::all).clean());
      EXPECT_TRUE(check(crashed).clean());
      std::vector<std::byte> data(40000);
      auto look = [&](Qcow2Driver& driver) -> Task<> { return driver.read(512 * KiB, Buffers(MutableBytes(data))); };
      run(crashed, with_image(look));
      EXPECT_EQ(data, std::vector<std::byte>(40000, std::byte{7}));
    };
    cut(broken, repair, judge);
  }
}

}  // namespace
}  // namespace tidemark::qcow2
