// What a recorder was told, in any order and more than once, is what its file says; one that is not wanted is gone.
#include <csignal>
#include <sys/resource.h>
#include "backup/sums_recorder.hpp"

#include <filesystem>

#include "backup/seal.hpp"
#include "base/random.hpp"
#include "block/test_driver.hpp"
#include "task/finally.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t granule = SumsRecorder::granularity;
constexpr std::uint64_t size = 3000 * granule - 5 * 512;

class Recorder : public BlockTest {
 protected:
  Recorder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tidemark-sums-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path = pattern;
  }
  ~Recorder() override { std::filesystem::remove_all(path); }

  std::vector<std::byte> content(std::uint64_t at, std::uint64_t version) const {
    std::vector<std::byte> bytes(std::min(granule, size - at * granule));
    store_le(bytes.data(), at);
    store_le(bytes.data() + 8, version);
    return bytes;
  }
  std::string file() const { return path + "/a.sums"; }
  std::unique_ptr<SumsRecorder> recorder(std::size_t leaves) {
    SumsRecorder::Options options{file(), path, leaves};
    return std::make_unique<SumsRecorder>(reactor, size, std::move(options));
  }
  // What the file says of each granule: version, 0 for zeroes, -1 for nothing, -2 for what nobody told it.
  Task<> read_file(std::vector<int>& says, const std::vector<int>& told) {
    SumsReader sums = co_await SumsReader::open(reactor, file(), size, granule, std::nullopt);
    auto close = [&sums]() -> Task<> { return sums.close(); };
    co_await finally(read_all(sums, says, told), close);
  }
  Task<> read_all(SumsReader& sums, std::vector<int>& says, const std::vector<int>& told) {
    for (; sums.run().count != 0; co_await sums.next())
      for (std::uint64_t i = 0; i < sums.run().count; ++i) {
        const std::uint64_t at = sums.run().first + i;
        const bool zero = sums.run().kind == SumsRun::Kind::zero;
        says[at] = 0;
        if (zero) continue;
        const auto expected = Digest::of(content(at, static_cast<std::uint64_t>(told[at])));
        says[at] = sums.run().digests[i] == expected ? told[at] : -2;
      }
  }
  void expect_remembers(std::size_t leaves, std::uint64_t seed) {
    Prng random(seed);
    auto sums = recorder(leaves);
    const std::uint64_t granules = div_up(size, granule);
    std::vector<int> told(granules, -1), says(granules, -1);
    for (int step = 1; step < 1500; ++step) {
      const std::uint64_t first = random.below(granules), count = 1 + random.below(std::min<std::uint64_t>(16, granules - first));
      const Range range{first * granule, std::min(count * granule, size - first * granule)};
      const bool zero = random.chance(1, 4);
      std::vector<std::byte> data;
      for (std::uint64_t i = first; i < first + count; ++i) {
        told[i] = zero ? 0 : step;
        const auto bytes = content(i, static_cast<std::uint64_t>(step));
        data.insert(data.end(), bytes.begin(), bytes.end());
      }
      const std::size_t cut = data.size() / 3;
      const iovec two[] = {{data.data(), cut}, {data.data() + cut, data.size() - cut}};
      run(zero ? sums->zeroes(range) : sums->data(range.offset, Buffers(std::span(two))));
    }
    run(sums->finish());
    run(sums->close(true));
    run(read_file(says, told));
    EXPECT_EQ(says, told);
    const Seal seal = run(read_seal(reactor, file(), size, granule, false));
    EXPECT_GT(seal.stored_bytes, size / 2);
    EXPECT_LE(seal.stored_bytes, size);
    std::filesystem::remove(file());
  }

  std::string path;
};

TEST_F(Recorder, RemembersInMemory) { expect_remembers(SumsRecorder::leaves_max, 1); }

TEST_F(Recorder, RemembersByAScratchFile) {
  for (std::uint64_t seed = 1; seed < 4; ++seed) expect_remembers(2, seed);
}

// A job that goes on after its scratch file could not be written tells the last piece again, and no other.
TEST_F(Recorder, RemembersWhatCouldNotBeSetAside) {
  ::signal(SIGXFSZ, SIG_IGN);
  auto sums = recorder(2);
  std::vector<int> told(div_up(size, granule), -1), says = told;
  const auto tell = [&](std::uint64_t at, int version) {
    told[at] = version;
    const auto bytes = content(at, static_cast<std::uint64_t>(version));
    return reactor.run(sums->data(at * granule, Buffers::of_const(bytes)));
  };
  EXPECT_TRUE(tell(0, 1).ok());
  EXPECT_TRUE(tell(300, 2).ok());
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_FALSE(tell(600, 3).ok());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_TRUE(tell(600, 4).ok());
  EXPECT_TRUE(tell(0, 5).ok());
  run(sums->finish());
  run(sums->close(true));
  run(read_file(says, told));
  EXPECT_EQ(says, told);
}

TEST_F(Recorder, OverwritesNothing) {
  run(SumsRecorder::check(reactor, file()));
  EXPECT_FALSE(reactor.run(SumsRecorder::check(reactor, path + "/nowhere/a.sums")).ok());
  EXPECT_FALSE(reactor.run(SumsRecorder::check(reactor, path)).ok());
  run(fs::replace(reactor, file(), "mine"));
  EXPECT_FALSE(reactor.run(SumsRecorder::check(reactor, file())).ok());
  auto sums = recorder(2);
  EXPECT_FALSE(reactor.run(sums->finish()).ok());
  run(sums->close(false));
  EXPECT_EQ(std::filesystem::file_size(file()), 4u);
}

TEST_F(Recorder, LeavesNothingThatIsNotWanted) {
  auto sums = recorder(2);
  run(sums->finish());
  EXPECT_TRUE(std::filesystem::exists(file()));
  run(sums->close(false));
  EXPECT_FALSE(std::filesystem::exists(file()));
}

}  // namespace
}  // namespace tidemark::test
