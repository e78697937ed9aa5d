// Requests and their answers in all three forms of headers, and clients that break the rules.
#include "export/nbd/test_bed.hpp"
#include "io/sim/backend.hpp"
#include "nbd/golden.hpp"

namespace tidemark::test {
namespace {

using nbd::Chunk;
using nbd::Command;
using nbd::Headers;
namespace flag = nbd::command_flag;

std::vector<std::byte> pattern(std::size_t size, std::uint64_t seed = 1) {
  Prng prng(seed);
  std::vector<std::byte> bytes(size);
  for (auto& byte : bytes) byte = static_cast<std::byte>(prng() | 1);
  return bytes;
}

struct Case {
  std::uint64_t seed;
  Headers headers;
};

class NbdTransmissionTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr std::uint64_t size = 1 * MiB;

  NbdTransmissionTest() {
    TestDriverOptions options;
    options.size = size;
    disk = &bed.add_disk("node", options);
    bed.serve();
    add_export("disk", true);
    add_export("read-only", false);
  }
  void add_export(std::string name, bool writable) {
    NbdExportOptions options;
    options.name = std::move(name);
    options.writable = writable;
    bed.add_export("node", options);
  }
  Headers headers() const { return GetParam().headers; }
  // Offsets and lengths beyond 32 bits need extended headers.
  std::uint64_t huge() const {
    return headers() == Headers::extended ? std::uint64_t{1} << 62 : 0xfffffe00u;
  }

  SimWorld world{GetParam().seed};
  SimBackend io{world};
  NbdBed bed{io};
  TestDriver* disk = nullptr;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (std::uint64_t seed = 1; seed < 4; ++seed)
    for (Headers headers : {Headers::simple, Headers::structured, Headers::extended})
      all.push_back({seed, headers});
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, NbdTransmissionTest, testing::ValuesIn(cases()));

TEST_P(NbdTransmissionTest, ReadsWhatWasWritten) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  for (std::size_t length : {1, 511, 4096, 100'000, 700'000}) {
    const auto data = pattern(length, length);
    EXPECT_EQ(client.write(4321, data).error, 0u);
    EXPECT_TRUE(client.read(4321, length).data == data) << length;
  }
}

TEST_P(NbdTransmissionTest, EveryCommandReachesTheDisk) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_EQ(client.command(Command::flush).error, 0u);
  EXPECT_EQ(disk->log.back().call, Call::flush);
  EXPECT_EQ(client.command(Command::trim, 4096, 8192).error, 0u);
  EXPECT_EQ(disk->log.back(), (Logged{Call::discard, {4096, 8192}}));
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 512).error, 0u);
  EXPECT_EQ(disk->log.back(), (Logged{Call::zeroes, {0, 512}, WriteFlags::may_unmap}));
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 512, flag::no_hole).error, 0u);
  EXPECT_EQ(disk->log.back(), (Logged{Call::zeroes, {0, 512}}));
  EXPECT_EQ(client.command(Command::cache, 512, 1024).error, 0u);
  EXPECT_EQ(disk->log.back(), (Logged{Call::read, {512, 1024}}));
}

TEST_P(NbdTransmissionTest, FuaIsDurableAndTakenWithEveryCommand) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_EQ(client.write(0, pattern(512), flag::fua).error, 0u);
  EXPECT_EQ(disk->log.back().call, Call::flush);
  EXPECT_EQ(client.command(Command::trim, 0, 4096, flag::fua).error, 0u);
  EXPECT_EQ(disk->log.back().call, Call::flush);
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 4096, flag::fua).error, 0u);
  EXPECT_EQ(disk->log.back().call, Call::flush);
  for (Command command : {Command::read, Command::flush, Command::cache})
    EXPECT_EQ(client.command(command, 0, 0, flag::fua).error, 0u);
}

TEST_P(NbdTransmissionTest, WritethroughMakesEveryWriteDurable) {
  NbdExportOptions options;
  options.name = "through";
  options.writable = options.writethrough = true;
  bed.add_export("node", options);
  auto client = bed.client();
  client.enter(headers(), "through");
  EXPECT_EQ(client.write(0, pattern(512)).error, 0u);
  EXPECT_EQ(disk->log.back().call, Call::flush);
}

TEST_P(NbdTransmissionTest, FastZeroFailsWhereZeroingIsSlow) {
  TestDriverOptions options;
  options.zeroes = false;
  bed.add_disk("slow", options);
  NbdExportOptions slow;
  slow.name = "slow";
  slow.writable = true;
  bed.add_export("slow", slow);
  auto client = bed.client();
  client.enter(headers(), "slow");
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 4096, flag::fast_zero).error, 95u);
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 4096).error, 0u);
}

TEST_P(NbdTransmissionTest, RequestsBeyondTheEndAreRefused) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  for (Range range : {Range{size, 512}, Range{size - 512, 1024}, Range{~std::uint64_t{511}, 1024},
                      Range{0, huge()}}) {
    EXPECT_EQ(client.command(Command::read, range.offset, range.length).error, 22u);
    EXPECT_EQ(client.command(Command::trim, range.offset, range.length).error, 22u);
    EXPECT_EQ(client.command(Command::cache, range.offset, range.length).error, 22u);
    EXPECT_EQ(client.command(Command::write_zeroes, range.offset, range.length).error, 28u);
  }
  EXPECT_EQ(client.write(size - 511, pattern(512)).error, 28u);
  EXPECT_EQ(client.write(size, pattern(200'000)).error, 28u);
  EXPECT_EQ(client.read(size - 512, 512).error, 0u);             // and nothing is out of step
  EXPECT_EQ(disk->count(Call::write), 0u);
}

TEST_P(NbdTransmissionTest, EmptyRequestsSucceed) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  for (Command command : {Command::read, Command::trim, Command::cache, Command::write_zeroes}) {
    const Answer answer = client.command(command, 4096, 0);
    EXPECT_EQ(answer.error, 0u);
    EXPECT_TRUE(answer.data.empty());
  }
  EXPECT_EQ(client.write(size, {}).error, 0u);
}

TEST_P(NbdTransmissionTest, ReadOnlyExportsRefuseWrites) {
  auto client = bed.client();
  client.enter(headers(), "read-only");
  EXPECT_EQ(client.write(0, pattern(100'000)).error, 1u);
  EXPECT_EQ(client.command(Command::trim, 0, 512).error, 1u);
  EXPECT_EQ(client.command(Command::write_zeroes, 0, 512).error, 1u);
  EXPECT_EQ(client.command(Command::flush).error, 0u);
  EXPECT_EQ(client.read(0, 512).data.size(), 512u);
}

TEST_P(NbdTransmissionTest, UnknownCommandsAndFlagsAreInvalid) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_EQ(client.command(static_cast<Command>(8), 0, 512).error, 22u);
  EXPECT_EQ(client.command(static_cast<Command>(0x7777), 0, 0).error, 22u);
  EXPECT_EQ(client.read(0, 512, 1 << 9).error, 22u);
  EXPECT_EQ(client.read(0, 512, flag::req_one).error, 22u);
  EXPECT_EQ(client.write(0, pattern(512), flag::no_hole).error, 22u);
  EXPECT_EQ(client.command(Command::trim, 0, 512, flag::fast_zero).error, 22u);
  EXPECT_EQ(client.command(Command::cache, 0, 512, flag::df).error, 22u);
  EXPECT_EQ(client.command(Command::flush, 0, 0, flag::req_one).error, 22u);
  EXPECT_EQ(client.command(Command::block_status, 0, 512).error, 22u);     // none negotiated
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

TEST_P(NbdTransmissionTest, DfNeedsStructuredReplies) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_EQ(client.read(0, 512, flag::df).error, headers() == Headers::simple ? 22u : 0u);
}

TEST_P(NbdTransmissionTest, ReadsBeyondTheMaximumAreRefused) {
  TestDriverOptions options;
  options.size = 40 * MiB;
  bed.add_disk("large", options);
  NbdExportOptions large;
  large.name = "large";
  bed.add_export("large", large);
  auto client = bed.client();
  client.enter(headers(), "large");
  EXPECT_EQ(client.read(0, 32 * MiB + 1).error, headers() == Headers::simple ? 22u : 75u);
  EXPECT_EQ(client.read(4096, 32 * MiB).data.size(), 32 * MiB);
}

TEST_P(NbdTransmissionTest, PayloadsBeyondTheMaximumEndTheConnection) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  client.send_request({flag::payload_len, Command::write, 1, 0, 32 * MiB + 1});
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdTransmissionTest, AnotherMagicEndsTheConnection) {
  for (const char* wrong : {"12560953", "25609514", "00000000"}) {
    auto client = bed.client();
    client.enter(headers(), "disk");
    auto bytes = RawNbdClient::encode(headers(), {0, Command::read, 1, 0, 512});
    const auto magic = nbd::hex(wrong);
    std::copy(magic.begin(), magic.end(), bytes.begin());
    client.send(bytes);
    EXPECT_TRUE(client.closed());
  }
}

TEST_P(NbdTransmissionTest, DisconnectEndsAfterWhatIsInFlight) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  disk->hold();
  const nbd::Request read{0, Command::read, 7, 0, 512};
  client.send_request(read);
  client.send_request({0, Command::disconnect, 8, 0, 0});
  EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(std::chrono::seconds(1))).ok());
  disk->release();
  EXPECT_EQ(client.receive_reply(read).data.size(), 512u);
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdTransmissionTest, ErrorsOfTheDiskReachTheClient) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  auto fails_as = [&](int os_errno, std::uint32_t error) {
    disk->fail_next(Error::from_errno(os_errno, "/secret/path"));
    const Answer answer = client.write(0, pattern(512));
    EXPECT_EQ(answer.error, error);
    EXPECT_EQ(answer.message, headers() == Headers::simple ? "" : "write failed");
  };
  fails_as(EIO, 5);
  fails_as(ENOSPC, 28);
  fails_as(EDQUOT, 28);
  fails_as(EROFS, 1);
  fails_as(ENOTSUP, 22);
  fails_as(EOVERFLOW, 22);
  disk->fail_next(Error(Errc::io, "x"));
  EXPECT_EQ(client.read(0, 512).error, 5u);
  disk->fail_next(Error(Errc::io, "x"));
  EXPECT_EQ(client.command(Command::flush).error, 5u);
  disk->fail_next(Error(Errc::io, "x"));
  EXPECT_EQ(client.command(Command::cache, 0, 512).error, 5u);
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

TEST_P(NbdTransmissionTest, AnswersComeInTheOrderTheyAreReady) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  disk->hold();
  const nbd::Request read{0, Command::read, 1, 0, 512};
  client.send_request(read);
  EXPECT_EQ(client.command(static_cast<Command>(99)).error, 22u);      // does not wait for the read
  disk->release();
  EXPECT_EQ(client.receive_reply(read).error, 0u);
}

TEST_P(NbdTransmissionTest, ManyRequestsAtOnce) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  std::map<std::uint64_t, std::uint64_t> expected;
  std::vector<std::byte> batch;
  for (std::uint64_t i = 0; i < 600; ++i) {
    disk->content()[i * 1024] = static_cast<std::byte>(i);
    const auto bytes = RawNbdClient::encode(headers(), {0, Command::read, i, i * 1024, 1});
    batch.insert(batch.end(), bytes.begin(), bytes.end());
    expected[i] = i & 0xff;
  }
  client.send(batch);
  while (!expected.empty()) {
    Answer answer;
    std::uint64_t cookie = 0;
    // One part each; the offset goes with the cookie.
    ASSERT_TRUE(client.receive_part(cookie, answer, [](std::uint64_t c) { return c * 1024; }, 1));
    ASSERT_TRUE(expected.contains(cookie));
    EXPECT_EQ(static_cast<std::uint64_t>(answer.data.at(0)), expected[cookie]);
    expected.erase(cookie);
  }
}

TEST_P(NbdTransmissionTest, UnalignedRequestsAreInvalidOnceTheClientKnows) {
  TestDriverOptions options;
  options.limits.request_align = 4096;
  options.size = 64 * KiB;
  bed.add_disk("coarse", options);
  NbdExportOptions coarse;
  coarse.name = "coarse";
  coarse.writable = true;
  bed.add_export("coarse", coarse);

  auto knowing = bed.client();
  knowing.enter(headers(), "coarse", {}, {nbd::Info::block_size});
  EXPECT_EQ(knowing.read(512, 4096).error, 22u);
  EXPECT_EQ(knowing.read(0, 512).error, 22u);
  EXPECT_EQ(knowing.write(0, pattern(512)).error, 22u);
  EXPECT_EQ(knowing.command(Command::trim, 512, 4096).error, 22u);
  EXPECT_EQ(knowing.read(4096, 8192).error, 0u);

  auto ignorant = bed.client();
  ignorant.enter(headers(), "coarse");
  EXPECT_EQ(ignorant.write(513, pattern(100)).error, 0u);
  EXPECT_EQ(ignorant.read(513, 100).data, pattern(100));
}

TEST_P(NbdTransmissionTest, ClientsThatVanishLeaveNothingBehind) {
  for (int cut = 0; cut < 3; ++cut) {
    auto client = bed.client();
    client.enter(headers(), "disk");
    disk->hold();
    client.send_request({0, Command::read, 1, 0, 4096});
    nbd::Request write{0, Command::write, 2, 0, 100'000};
    if (headers() == Headers::extended) write.flags = flag::payload_len;
    if (cut > 0) client.send_request(write, pattern(50'000));       // half its payload
    client.close();
    EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(std::chrono::seconds(1))).ok());
    disk->release();
    EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(std::chrono::seconds(1))).ok());
    EXPECT_EQ(bed.server->clients(), 0u);
  }
  EXPECT_EQ(disk->count(Call::write), 0u);
}

TEST_P(NbdTransmissionTest, WhatNobodyWaitsForIsNotBegun) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  disk->hold();
  std::vector<std::byte> many;
  for (std::uint64_t cookie = 0; cookie < 3000; ++cookie) {
    const nbd::Request read{0, Command::read, cookie, 0, 4096};
    const auto bytes = RawNbdClient::encode(headers(), read);
    many.insert(many.end(), bytes.begin(), bytes.end());
  }
  const Duration limit = std::chrono::seconds(1);
  client.send_within(many, limit);                       // or as much of it as is taken
  client.close();
  disk->release();
  EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(limit)).ok());
  EXPECT_EQ(bed.server->clients(), 0u);
  // And the one that waited for the first answer.
  EXPECT_LE(disk->count(Call::read), Credit::client_total / Credit::request_min + 1);
}

// What needs structured replies.
class NbdStructuredTest : public NbdTransmissionTest {};
std::vector<Case> structured_cases() {
  auto all = cases();
  std::erase_if(all, [](const Case& c) { return c.headers == Headers::simple; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, NbdStructuredTest, testing::ValuesIn(structured_cases()));

TEST_P(NbdStructuredTest, RunsOfZeroesAreHoles) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  client.write(128 * KiB, pattern(64 * KiB));
  client.write(512 * KiB + 512, pattern(1));
  const Answer answer = client.read(0, size);
  const std::vector<std::pair<Chunk, Range>> expected{
      {Chunk::offset_hole, {0, 128 * KiB}},
      {Chunk::offset_data, {128 * KiB, 64 * KiB}},
      {Chunk::offset_hole, {192 * KiB, 320 * KiB}},
      {Chunk::offset_data, {512 * KiB, 64 * KiB}},
      {Chunk::offset_hole, {576 * KiB, 448 * KiB}}};
  EXPECT_EQ(answer.content, expected);
  EXPECT_TRUE(answer.data == disk->content());
  EXPECT_EQ(client.read(0, 4096).content.at(0).first, Chunk::offset_hole);
}

TEST_P(NbdStructuredTest, PiecesOfUnalignedReadsAreAligned) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  client.write(64 * KiB, pattern(64 * KiB));
  const Answer answer = client.read(1000, 200 * KiB);
  const std::vector<std::pair<Chunk, Range>> expected{
      {Chunk::offset_hole, {1000, 64 * KiB - 1000}},
      {Chunk::offset_data, {64 * KiB, 64 * KiB}},
      {Chunk::offset_hole, {128 * KiB, 72 * KiB + 1000}}};
  EXPECT_EQ(answer.content, expected);
}

TEST_P(NbdStructuredTest, DfMakesOneChunk) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  client.write(128 * KiB, pattern(4096));
  const Answer answer = client.read(0, size, flag::df);
  const std::vector<std::pair<Chunk, Range>> expected{{Chunk::offset_data, {0, size}}};
  EXPECT_EQ(answer.content, expected);
  EXPECT_TRUE(answer.data == disk->content());
}

TEST_P(NbdStructuredTest, ErrorsSayWhy) {
  auto client = bed.client();
  client.enter(headers(), "read-only");
  EXPECT_EQ(client.write(0, pattern(512)).message, "export is read-only");
  EXPECT_EQ(client.read(size, 512).message, "request beyond the end of the export");
}

TEST_P(NbdStructuredTest, SimpleRepliesOnlyWhereTheyAreAllowed) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_FALSE(client.read(0, 512).simple);
  EXPECT_FALSE(client.read(0, 0).simple);
  EXPECT_FALSE(client.read(0, 512, flag::req_one).simple);
  EXPECT_EQ(client.command(Command::flush).simple, headers() == Headers::structured);
}

// What only extended headers have.
class NbdExtendedTest : public NbdTransmissionTest {};
INSTANTIATE_TEST_SUITE_P(All, NbdExtendedTest,
                         testing::Values(Case{1, Headers::extended}, Case{2, Headers::extended}));

TEST_P(NbdExtendedTest, WritesNeedTheirPayloadFlag) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  EXPECT_EQ(client.command(Command::write, 0, 512).error, 22u);        // nothing follows it
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

TEST_P(NbdExtendedTest, UnexpectedPayloadsAreConsumed) {
  auto client = bed.client();
  client.enter(headers(), "disk");
  for (Command command : {Command::read, Command::flush, Command::trim, Command::cache,
                          Command::write_zeroes, Command::block_status, static_cast<Command>(55)}) {
    const auto payload = pattern(300'000);
    EXPECT_EQ(client.request({flag::payload_len, command, 0, 0, payload.size()}, payload).error, 22u);
  }
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

}  // namespace
}  // namespace tidemark::test
