// For tests of filters and jobs: disks in memory on a simulated machine, with faults and latency to
// be had at each, and a guest that goes on writing.  The same seed gives the same run.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "filter/copy_before_write.hpp"
#include "filter/fault.hpp"
#include "io/sim/process.hpp"
#include "storage/memory.hpp"
#include "task/group.hpp"

namespace tidemark::test {

using Content = std::vector<std::byte>;

// A filter that answers nothing while it hangs, as a server that is lost, until what waits is given up: that fails then.
class Hanging final : public Turnstile {
 public:
  Hanging(Reactor& reactor, std::unique_ptr<Edge> file) : Turnstile(reactor, std::move(file)), given_up_(reactor) {}
  std::string_view name() const noexcept override { return "hanging"; }
  void hang(bool hangs) noexcept { hangs_ = hangs; }
  std::uint64_t waiting() const noexcept { return waiting_; }
  Task<> cancel_in_flight() override {
    given_up_.notify_all();
    co_return;
  }

 private:
  Task<> pass(RequestKind, Range) override {
    if (!hangs_) co_return;
    ++waiting_;
    co_await given_up_.wait();
    --waiting_;
    co_await Error(Errc::io, "given up", EIO);
  }
  Event given_up_;
  bool hangs_ = false;
  std::uint64_t waiting_ = 0;
};

class Disks {
 public:
  explicit Disks(std::uint64_t seed = 1) : world(seed), random(seed) {}
  ~Disks() {
    roots.clear();
    EXPECT_TRUE(process.run(graph.close_all()).ok());
  }

  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = process.run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  template <class T>
  Error error_of(Task<T> task) {
    const Result<T> outcome = process.run(std::move(task));
    EXPECT_FALSE(outcome.ok());
    return outcome ? Error(Errc::io, "it succeeded") : outcome.error();
  }

  BlockNode& add(std::string name, std::unique_ptr<BlockDriver> driver) {
    NodeOptions options;
    options.name = std::move(name);
    options.monitor_owned = true;
    return *run(graph.add(std::move(options), std::move(driver)));
  }
  // A memory disk NAME under a fault filter "fault-NAME", which is what is returned.
  BlockNode& disk(const std::string& name, std::uint64_t size) {
    BlockNode& memory = add(name, *open_memory({size}));
    return add("fault-" + name, *open_fault({&memory, {}, random()}));
  }
  Fault& fault(const std::string& name) {
    return static_cast<Fault&>(graph.find("fault-" + name)->driver());
  }
  void set_faults(const std::string& name, std::vector<FaultRule> rules) {
    fault(name).set_rules(std::move(rules));
  }
  // A filter "hanging-NAME" above what disk() made.
  Hanging& add_hanging(const std::string& name) {
    auto edge = Edge::attach(node("fault-" + name), Role::filtered, {Permissions::none, Permissions::all}, "hanging");
    auto driver = std::make_unique<Hanging>(process.reactor(), *std::move(edge));
    Hanging& hanging = *driver;
    add("hanging-" + name, std::move(driver));
    return hanging;
  }
  BlockNode& node(std::string_view name) { return *graph.find(name); }

  Edge& attach(BlockNode& to, std::string user = "guest") {
    using P = Permissions;
    auto edge =
        Edge::attach(to, Role::root, {P::consistent_read | P::write, P::all}, std::move(user));
    if (!edge) ADD_FAILURE() << edge.error().message();
    roots.push_back(*std::move(edge));
    return *roots.back();
  }

  Content random_bytes(std::size_t size) {
    Content bytes(size);
    for (std::size_t i = 0; i < size; i += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes.data() + i, &word, std::min<std::size_t>(8, size - i));
    }
    return bytes;
  }
  // Fills a disk with data, zeroes and holes, in stretches of odd lengths.
  Content fill(BlockNode& disk) {
    Content content(disk.size());
    for (std::uint64_t at = 0; at < content.size();) {
      const std::uint64_t length =
          std::min<std::uint64_t>((1 + random.below(400)) * sector_size, content.size() - at);
      if (random.below(4) != 0) {
        const Content data = random_bytes(length);
        std::memcpy(content.data() + at, data.data(), length);
        run(write_at(disk, at, data));
      }
      at += length;
    }
    return content;
  }
  Content content_of(BlockNode& disk) { return run(read_all(disk)); }
  static Task<Content> read_all(BlockNode& disk) {
    Content content(disk.size());
    co_await disk.driver().read(0, Buffers(MutableBytes(content)));
    co_return content;
  }
  static Task<> read_at(BlockNode& disk, std::uint64_t offset, MutableBytes into) {
    co_await disk.driver().read(offset, Buffers(into));
  }
  static Task<> write_at(BlockNode& disk, std::uint64_t offset, Bytes from) {
    co_await disk.driver().write(offset, Buffers::of_const(from), WriteFlags::none);
  }

  SimWorld world;
  Prng random;
  SimProcess process{world};
  Graph graph{process.reactor()};
  std::vector<std::unique_ptr<Edge>> roots;
};

// Writes, zeroes and discards at random through an edge, several at once, and knows what the disk
// then holds.  Requests under way at one time do not overlap.
class Guest {
 public:
  Guest(Disks& disks, Edge& disk, Content now)
      : content(std::move(now)), disks_(disks), disk_(disk), locks_(disks.process.reactor()) {}

  // `requests` of them, `at_once` side by side.
  Task<> work(std::uint64_t requests, std::uint64_t at_once) {
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t i = 0; i < at_once; ++i) group.spawn(worker(requests / at_once));
      co_await group.join();
    };
    co_await with_group(disks_.process.reactor(), body);
  }
  // Until stop() is called.
  Task<> work_on(std::uint64_t at_once) { co_await work(at_once * 1'000'000'000, at_once); }
  void stop() noexcept { stopped_ = true; }
  std::uint64_t requests() const noexcept { return requests_; }
  std::uint64_t failed() const noexcept { return failed_; }

  Content content;  // of the disk; whole when no request is under way

 private:
  Task<> worker(std::uint64_t requests) {
    Prng random(disks_.random());
    for (std::uint64_t i = 0; i < requests && !stopped_; ++i) co_await request(random);
  }
  Task<> request(Prng& random);

  Disks& disks_;
  Edge& disk_;
  RangeLock locks_;
  bool stopped_ = false;
  std::uint64_t requests_ = 0, failed_ = 0;
};

inline Task<> Guest::request(Prng& random) {
  Reactor& reactor = disks_.process.reactor();
  co_await reactor.sleep(Duration(random.below(300'000)));
  const std::uint64_t sectors = content.size() / sector_size;
  const std::uint64_t first = random.below(sectors);
  const std::uint64_t count = 1 + random.below(random.chance(1, 8) ? 400 : 16);
  const Range range =
      Range{first * sector_size, count * sector_size}.intersect({0, content.size()});
  auto lock = locks_.hold(range, RangeLock::Mode::exclusive);
  co_await lock;
  const auto kind = random.below(8);
  Content data(range.length);
  if (kind >= 2)
    for (auto& byte : data) byte = static_cast<std::byte>(random());
  Result<> done;
  if (kind == 0)
    done = co_await disk_.write_zeroes(range, WriteFlags::may_unmap).result();
  else if (kind == 1)
    done = co_await disk_.discard(range).result();
  else
    done = co_await disk_.write(range.offset, Buffers::of_const(data)).result();
  ++requests_;
  if (!done) ++failed_;
  // What a discard leaves is the disk's to say; a failed write may have changed a part.
  // A read that fails is repeated: the disk has faults.
  for (bool known = kind != 1 && done; !known;) {
    auto seen = co_await disk_.read(range.offset, Buffers(MutableBytes(data))).result();
    known = seen.ok();
  }
  std::memcpy(content.data() + range.offset, data.data(), data.size());
}

}  // namespace tidemark::test
