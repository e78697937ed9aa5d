// Mirrors of images, which know where they are empty over long stretches.
#include "tests/support/test_chains.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t granule = 64 * KiB;

class MirrorImageTest : public ChainsTest {};

// A granule is written to both and then discarded while a copier has taken hold of it, and waits for its turn: then it is not as
// the untouched ones beside it, which are left out.
TEST_F(MirrorImageTest, ATargetThatIsZeroBelowDiscards) {
  for (std::uint64_t seed = 1; seed < 4; ++seed) {
    restart(seed);
    BlockNode& source = layer("s", 16 * MiB, nullptr, granule);
    BlockNode& target = layer("t", 16 * MiB, nullptr, granule);
    FaultRule slow;
    slow.latency_ns = 1'000'000;
    slow.op = FaultOp::read;
    disks->set_faults("s", {slow});
    Edge& writer = disks->attach(source);
    run([&]() -> Task<> {
      const Content data(granule, std::byte{1});
      for (std::uint64_t i = 0; i < 256; ++i) {
        const Range range{i * granule, granule};
        co_await writer.write(range.offset, Buffers::of_const(data));
        if (i % 4 != 0) co_await writer.discard(range);
      }
      MirrorOptions options;
      options.job.id = "j";
      options.source = &source;
      options.target = &target;
      options.copy_mode = CopyMode::write_blocking;
      options.target_is_zero = true;
      ManagedJob* job = co_await MirrorJob::create(*jobs, std::move(options));
      jobs->start(*job);
      while (job->status() == JobStatus::running) {
        const Range range{(disks->random.below(64) * 4 + 2) * granule, granule};
        co_await writer.write(range.offset, Buffers::of_const(data));
        co_await writer.discard(range);
        co_await disks->process.reactor().sleep(Duration(50'000));
      }
      EXPECT_TRUE(jobs->cancel_block_job(*job, false).ok());
      co_await end_of("j");
    });
    EXPECT_TRUE(content(source) == content(target)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace tidemark::test
