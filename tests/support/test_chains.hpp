// For tests of jobs on backing chains: chains of qcow2 images in memory with random content, and the jobs to start.
#pragma once

#include "block/status.hpp"
#include "format/qcow2/driver.hpp"
#include "job/chain/commit.hpp"
#include "job/chain/stream.hpp"
#include "job/mirror/mirror.hpp"
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {

class ChainsTest : public JobsTest, protected ChainAccess {
 protected:
  // What a disk reads as: an image, or a filter on one.
  Content content(BlockNode& node) { return disks->content_of(node); }

  // An image in memory under a fault filter FAULT-NAME, which is not a part of the chain but below it.
  BlockNode& layer(const std::string& name, std::uint64_t size, BlockNode* backing = nullptr,
                   std::uint64_t cluster_size = 4096) {
    return *disks->run(make_layer(name, size, backing, cluster_size));
  }
  Task<BlockNode*> make_layer(std::string name, std::uint64_t size, BlockNode* backing, std::uint64_t cluster_size) {
    using P = Permissions;
    NodeOptions file_options;
    file_options.name = "file-" + name;
    file_options.monitor_owned = true;
    const MemoryOptions nothing;
    BlockNode& memory = *co_await disks->graph.add(file_options, *open_memory(nothing));
    {
      auto making = Edge::attach(memory, Role::root, {P::write | P::resize, P::all}, "test");
      Qcow2CreateOptions create;
      create.size = size;
      create.cluster_size = cluster_size;
      if (backing) create.backing_file = backing->name() + ".qcow2";
      if (backing) create.backing_format = "qcow2";
      co_await Qcow2Driver::create(**making, create);
    }
    FaultOptions faults;
    faults.file = &memory;
    faults.seed = disks->random();
    NodeOptions fault_options;
    fault_options.name = "fault-" + name;
    fault_options.monitor_owned = true;
    BlockNode& fault = *co_await disks->graph.add(fault_options, *open_fault(faults));
    Qcow2OpenOptions open;
    open.caches.l2 = MiB;
    auto edge = Edge::attach(fault, Role::file, {}, "test");
    auto driver = co_await Qcow2Driver::open(*std::move(edge), open);
    if (backing) driver->set_backing(*Edge::attach(*backing, Role::backing, {}, "test"));
    NodeOptions options;
    options.name = name;
    options.monitor_owned = true;
    co_return co_await disks->graph.add(options, std::move(driver));
  }
  // Some random data, zeroes and what shows from below.
  void scribble(BlockNode& node, int pieces = 12) {
    for (int i = 0; i < pieces; ++i) {
      const std::uint64_t at = disks->random.below(node.size() / 512) * 512;
      const std::uint64_t length = std::min((1 + disks->random.below(60)) * 512, node.size() - at);
      const Range range{at, length};
      if (disks->random.below(4) == 0) {
        disks->run(zero(node, range));
      } else {
        const Content data = disks->random_bytes(length);
        disks->run(Disks::write_at(node, at, data));
      }
    }
  }
  static Task<> zero(BlockNode& node, Range range) {
    const Permissions writing{Permissions::write, Permissions::all};
    auto edge = co_await unwrap(Edge::attach(node, Role::root, writing, "test"));
    co_await edge->write_zeroes(range);
  }
  static FaultRule slow() {
    FaultRule rule;
    rule.latency_ns = 100'000;
    rule.jitter_ns = 300'000;
    return rule;
  }
  static FaultRule failing(FaultOp op, std::uint64_t skip, std::uint64_t count) {
    FaultRule rule;
    rule.op = op;
    rule.skip = skip;
    rule.count = count;
    rule.os_errno = 5;
    return rule;
  }
  static std::string backing_name_in(BlockNode& node) { return static_cast<Qcow2Driver&>(node.driver()).backing_file(); }

  Task<ManagedJob*> stream(std::string id, BlockNode& disk, BlockNode& bottom) {
    StreamOptions options;
    options.job.id = std::move(id);
    options.disk = &disk;
    options.bottom = &bottom;
    options.backing_file = "below.qcow2";
    co_return co_await begin(std::move(options));
  }
  Task<ManagedJob*> begin(StreamOptions options) {
    options.access = this;
    ManagedJob* job = co_await StreamJob::create(*jobs, std::move(options));
    jobs->start(*job);
    co_return job;
  }
  CommitOptions commit(std::string id, BlockNode& disk, BlockNode& top, BlockNode& base) {
    CommitOptions options;
    options.job.id = std::move(id);
    options.disk = &disk;
    options.top = &top;
    options.base = &base;
    options.backing_file = "base.qcow2";
    return options;
  }
  Task<ManagedJob*> begin(CommitOptions options) {
    options.access = this;
    ManagedJob* job = co_await CommitJob::create(*jobs, std::move(options));
    jobs->start(*job);
    co_return job;
  }
  // Of what guests write to.
  MirrorOptions active_commit(std::string id, BlockNode& top, BlockNode& base) {
    MirrorOptions options;
    options.job.id = std::move(id);
    options.source = &top;
    options.target = &base;
    options.sync = SyncMode::top;
    options.commit.emplace();
    return options;
  }
  Task<ManagedJob*> begin(MirrorOptions options) {
    options.commit->access = this;
    ManagedJob* job = co_await MirrorJob::create(*jobs, std::move(options));
    jobs->start(*job);
    co_return job;
  }

  Task<> make_writable(BlockNode& node) override {
    if (node.name() == refuses_to_write)
      co_await Error(Errc::permission, "Could not open '" + node.name() + "': Permission denied", 13);
    made_writable.push_back(node.name());
    if (node.read_only()) co_await disks->graph.set_read_only(node, false);
  }
  Task<> make_read_only(BlockNode& node) override {
    made_writable.push_back("not " + node.name());
    (void)co_await static_cast<Qcow2Driver&>(node.driver()).open_anew().result();
    co_await disks->graph.set_read_only(node, true);
  }
  Task<> uncover(BlockNode& image, Range range) override {
    co_await static_cast<Qcow2Driver&>(image.driver()).uncover(range);
  }
  Result<> check_size_change(const BlockNode&) override { return {}; }
  std::vector<std::string> made_writable;
  std::string refuses_to_write;          // a node's name
};

}  // namespace tidemark::test
