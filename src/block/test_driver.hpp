// For tests of the block layer: a reactor with a graph, and a driver that holds its node to the
// contract of BlockDriver (aligned, bounded, split requests; aligned memory) and remembers its
// calls.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "block/graph.hpp"
#include "io/threads/threads_backend.hpp"

namespace tidemark::test {

enum class Call : std::uint8_t { read, write, zeroes, discard, flush, compressed, truncate, write_back, close };

struct Logged {
  Call call;
  Range range;
  WriteFlags flags = WriteFlags::none;
  friend bool operator==(const Logged&, const Logged&) = default;
};

struct TestDriverOptions {
  std::uint64_t size = 64 * KiB;
  BlockLimits limits;
  bool fua = false, zeroes = true, discards = true;
};

class TestDriver : public BlockDriver {
 public:
  TestDriver(Reactor& reactor, TestDriverOptions options)
      : options_(options), content_(options.size), released_(reactor) {
    released_.set();
  }

  std::string_view name() const noexcept override { return "test"; }
  std::uint64_t size() const noexcept override { return content_.size(); }
  BlockLimits limits() const noexcept override { return options_.limits; }
  bool supports_fua() const noexcept override { return options_.fua; }

  Task<Extent> map(Range wanted) override {
    EXPECT_TRUE(fits(wanted.offset, wanted.length, size()));
    co_return Extent{wanted, Mapping::data, wanted.offset};
  }
  Task<> read(std::uint64_t offset, Buffers into) override {
    check(offset, into);
    const Range range{offset, into.size()};
    co_await begin(Call::read, range);
    const std::uint64_t stored = std::min<std::uint64_t>(into.size(), size() - offset);
    into.fill_zero();
    into.first(stored).copy_from(Bytes(content_).subspan(offset, stored));
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    check(offset, from);
    EXPECT_TRUE(options_.fua || !has(flags, WriteFlags::fua));
    const Range range{offset, from.size()};
    co_await begin(Call::write, range, flags);
    if (offset + from.size() > size()) content_.resize(offset + from.size());
    from.copy_to(MutableBytes(content_).subspan(offset, from.size()));
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override {
    EXPECT_EQ((range.offset | range.length) & (options_.limits.write_zeroes_align - 1), 0u);
    EXPECT_TRUE(options_.limits.max_zeroes == 0 || range.length <= options_.limits.max_zeroes);
    co_await begin(Call::zeroes, range, flags);
    if (!options_.zeroes) co_await Error(Errc::unsupported, "no zeroes", ENOTSUP);
    std::memset(content_.data() + range.offset, 0, range.length);
  }
  Task<> discard(Range range) override {
    EXPECT_EQ((range.offset | range.length) & (options_.limits.discard_align - 1), 0u);
    co_await begin(Call::discard, range);
    if (!options_.discards) co_await Error(Errc::unsupported, "no discard", ENOTSUP);
  }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override {
    const Range range{offset, from.size()};
    co_await begin(Call::compressed, range);
    from.copy_to(MutableBytes(content_).subspan(offset, from.size()));
  }
  Task<> flush() override { return begin(Call::flush, {}); }
  Task<> write_back(PageCache after) override {
    if (edges().empty()) return begin(Call::write_back, {});
    return BlockDriver::write_back(after);
  }
  Task<> truncate(std::uint64_t size, Growth) override {
    const Range range{0, size};
    co_await begin(Call::truncate, range);
    content_.resize(size);
  }
  Task<ImageInfo> info() override { co_return ImageInfo{}; }
  Task<> cancel_in_flight() override {
    ++cancelled;
    co_return;
  }
  void writers_gone() noexcept override { ++let_go; }
  Task<> close() override {
    log.push_back({Call::close, {}, {}});
    co_return;
  }

  // Requests wait inside the driver from hold() to release().
  void hold() { released_.reset(); }
  void release() { released_.set(); }
  void fail_next(Error error) { failure_ = std::move(error); }

  std::size_t count(Call call) const {
    return static_cast<std::size_t>(
        std::count_if(log.begin(), log.end(), [&](const Logged& l) { return l.call == call; }));
  }
  std::vector<std::byte>& content() { return content_; }

  std::vector<Logged> log;
  std::uint64_t waiting = 0;  // requests held back now
  int cancelled = 0;
  int let_go = 0;             // how often its last writer has gone

 private:
  void check(std::uint64_t offset, const Buffers& data) const {
    const BlockLimits& limits = options_.limits;
    EXPECT_EQ((offset | data.size()) & (limits.request_align - 1), 0u);
    EXPECT_TRUE(data.aligned(limits.memory_align));
    EXPECT_TRUE(limits.max_transfer == 0 || data.size() <= limits.max_transfer);
    EXPECT_LE(offset + data.size(), align_up(align_up(size(), sector_size), limits.request_align));
  }
  Task<> begin(Call call, Range range, WriteFlags flags = WriteFlags::none) {
    log.push_back({call, range, flags});
    ++waiting;
    co_await released_.wait();
    --waiting;
    const std::optional<Error> failure = std::exchange(failure_, std::nullopt);
    if (failure) co_await *failure;
  }

  TestDriverOptions options_;
  std::vector<std::byte> content_;
  Event released_;
  std::optional<Error> failure_;
};

// A format or filter over other test nodes: requests go to its first child.
class TestParent : public TestDriver {
 public:
  using TestDriver::TestDriver;
  bool is_filter() const noexcept override { return filter; }
  std::vector<Edge*> edges() const override {
    std::vector<Edge*> all;
    for (auto& edge : children)
      if (edge) all.push_back(edge.get());
    return all;
  }
  std::unique_ptr<Edge>* backing_place() noexcept override { return overlay ? &children.at(0) : nullptr; }
  Task<> read(std::uint64_t offset, Buffers into) override {
    return children.at(0)->read(offset, into);
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    return children.at(0)->write(offset, from, flags);
  }
  Task<Extent> map(Range wanted) override {
    if (!mapping) return children.at(0)->map(wanted);
    return mapped(wanted);
  }
  Task<> close() override {
    children.clear();
    return TestDriver::close();
  }

  bool filter = false;
  bool overlay = false;             // its first child is, or would be, what it stands on
  std::vector<std::unique_ptr<Edge>> children;
  std::function<Extent(Range)> mapping;

 private:
  Task<Extent> mapped(Range wanted) { co_return mapping(wanted); }
};


// Lets writes pass once it is open.
class TestTracking final : public NodeTracking {
 public:
  explicit TestTracking(Executor& executor) : open(executor) {}
  bool admitted(Range) noexcept override { return open.is_set(); }
  Task<> admit(Range range) override {
    asked.push_back(range);
    co_await open.wait();
  }
  bool survives_crashes() const noexcept override { return true; }
  void resized(std::uint64_t size) noexcept override { size_seen = size; }
  Task<> save() override { co_return; }
  Task<> before_close() override { co_return; }
  Task<> after_close() override { co_return; }
  Task<> settle() override {
    ++settlings;
    co_return;
  }
  bool settled() const noexcept override { return settlings >= settles_after; }
  Task<GroupKeeper> keeper() override { co_return GroupKeeper(); }
  Task<> intend(std::uint64_t, const GroupKeeper&) override { co_return; }
  void withdraw(std::uint64_t) noexcept override {}
  Task<> decide(std::uint64_t, std::uint64_t) override { co_return; }
  Task<> settle_group(std::uint64_t) override { co_return; }
  void forget_group(std::uint64_t) noexcept override {}
  void leave() noexcept override {}
  void arrive(Reactor&) noexcept override {}
  Event open;
  std::vector<Range> asked;
  std::uint64_t size_seen = 0;
  int settlings = 0, settles_after = 0;
};


class BlockTest : public testing::Test {
 protected:
  using P = Permissions;

  ~BlockTest() override { close_all(); }
  void close_all() {
    roots.clear();
    EXPECT_TRUE(reactor.run(graph.close_all()).ok());
  }

  // Runs a task that is to succeed.
  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = reactor.run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  Error error_of(Task<> task) {
    const Result<> outcome = reactor.run(std::move(task));
    EXPECT_FALSE(outcome.ok());
    return outcome ? Error(Errc::io, "it succeeded") : outcome.error();
  }

  BlockNode& add(std::string name, std::unique_ptr<BlockDriver> driver, NodeOptions options = {}) {
    options.name = std::move(name);
    return *run(graph.add(std::move(options), std::move(driver)));
  }
  TestDriver& add_disk(std::string name, TestDriverOptions options = {}, NodeOptions node = {}) {
    auto driver = std::make_unique<TestDriver>(reactor, options);
    TestDriver& added = *driver;
    add(std::move(name), std::move(driver), std::move(node));
    return added;
  }
  BlockNode& node(std::string_view name) { return *graph.find(name); }
  static TestDriver& disk(BlockNode& node) { return static_cast<TestDriver&>(node.driver()); }

  // A node over others, children in order.
  struct Child {
    BlockNode* node;
    Role role;
  };
  TestParent& add_parent(std::string name, std::vector<Child> below, bool filter = false) {
    TestDriverOptions options;
    options.size = below.at(0).node->size();
    auto driver = std::make_unique<TestParent>(reactor, options);
    driver->filter = filter;
    for (const Child& child : below)
      driver->children.push_back(*Edge::attach(*child.node, child.role, {}, "node '" + name + "'"));
    TestParent& added = *driver;
    add(std::move(name), std::move(driver));
    return added;
  }

  Edge& attach(BlockNode& node, Permissions permissions = {P::consistent_read | P::write, P::all},
               std::string user = "test") {
    roots.push_back(*Edge::attach(node, Role::root, permissions, std::move(user)));
    return *roots.back();
  }

  // Runs the task beside the test, up to its first wait; finish() ends it.
  struct Background {
    std::coroutine_handle<Task<>::promise_type> handle;
    bool done() const { return handle.promise().finished; }
  };
  Background start(Task<> task) {
    auto handle = task.release();
    handle.resume();
    return {handle};
  }
  Result<> finish(Background& background) {
    while (!background.done()) reactor.turn();
    Result<> outcome = *background.handle.promise().outcome;
    background.handle.destroy();
    return outcome;
  }
  // Lets everything that is ready run.
  void settle() {
    const auto yield = [this]() -> Task<> {
      for (int i = 0; i < 8; ++i) co_await reactor.yield();
    };
    run(yield());
  }

  std::unique_ptr<IoBackend> io = *make_threads_backend(2);
  Reactor reactor{*io};
  Graph graph{reactor};
  std::vector<std::unique_ptr<Edge>> roots;
};

inline std::vector<std::byte> bytes_of(std::size_t size, std::uint64_t seed) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((seed * 131 + i * 7 + (i >> 8) * 13 + 1) & 0xff);
  return bytes;
}

}  // namespace tidemark::test
