// The server as a whole: exports come and go, clients are limited, dropped and held apart.
#include "export/nbd/server.hpp"

#include <list>

#include "export/nbd/test_bed.hpp"
#include "io/sim/backend.hpp"

namespace tidemark::test {
namespace {

using nbd::Command;
using nbd::Headers;
using nbd::Option;

class NbdServerTest : public testing::Test {
 protected:
  NbdServerTest() {
    TestDriverOptions options;
    options.size = 16 * MiB;
    disk = &bed.add_disk("node", options);
  }
  NbdExportOptions named(std::string name, bool writable = true) {
    NbdExportOptions options;
    options.name = std::move(name);
    options.writable = writable;
    options.on_removed = [this] { ++removed; };
    return options;
  }
  std::string add_fails(NbdExportOptions options, std::string_view node = "node") {
    const auto added = bed.server->add_export(*bed.graph.find(node), std::move(options));
    EXPECT_FALSE(added.ok());
    return added ? "" : added.error().message();
  }
  void sleep(Duration duration) { EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(duration)).ok()); }
  void seconds(int n) { sleep(std::chrono::seconds(n)); }

  SimWorld world{1};
  SimBackend io{world};
  NbdBed bed{io};
  TestDriver* disk = nullptr;
  std::byte greeting[nbd::greeting_size];
  int removed = 0;
};

TEST_F(NbdServerTest, ExportsMustMakeSense) {
  NodeOptions read_only;
  read_only.read_only = true;
  bed.add_disk("ro", {}, read_only);
  bed.serve();
  bed.add_export("node", named("a"));
  EXPECT_EQ(add_fails(named("a")), "NBD server already has export named 'a'");
  EXPECT_EQ(add_fails(named(std::string(4097, 'n'))),
            "export name '" + std::string(4097, 'n') + "' too long");
  EXPECT_EQ(add_fails(named("b"), "ro"), "Cannot export read-only node as writable");
  bed.add_export("ro", named("b", false));
  auto with_bitmap = named("c", false);
  with_bitmap.bitmaps = {{"", "b0"}};
  EXPECT_EQ(add_fails(with_bitmap, "ro"), "Bitmap 'b0' is not found");
  BlockNode& ro = *bed.graph.find("ro");
  NodeBitmap& bitmap = **ro.bitmaps().add("b0", ro.size(), 65536);
  with_bitmap.bitmaps = {{"", "b0"}, {"ro", "b0"}};
  EXPECT_EQ(add_fails(with_bitmap, "ro"), "Bitmap 'b0' is exported twice");
  EXPECT_FALSE(bitmap.busy());
  with_bitmap.bitmaps = {{"nosuch", "b0"}};
  EXPECT_EQ(add_fails(with_bitmap, "ro"), "Cannot find device='nosuch' nor node-name='nosuch'");
  with_bitmap.bitmaps = {{"", "b0"}};
  bed.add_export("ro", with_bitmap);                 // nobody writes, whether it records or not
}

TEST_F(NbdServerTest, BitmapsThatRecordAreServedToWriters) {
  bed.serve();
  BlockNode& node = *bed.graph.find("node");
  NodeBitmap& bitmap = **node.bitmaps().add("b", node.size(), 65536);
  auto reader = named("a", false);
  reader.bitmaps = {{"", "b"}};
  EXPECT_EQ(add_fails(reader), "Enabled bitmap 'b' incompatible with readonly export");
  bitmap.set_enabled(false);
  bed.add_export("node", reader);
}

TEST_F(NbdServerTest, ExportsHoldTheirBitmapsAndNodes) {
  bed.serve();
  BlockNode& node = *bed.graph.find("node");
  NodeBitmap& bitmap = **node.bitmaps().add("b", node.size(), 65536);
  auto options = named("a");
  options.bitmaps = {{"", "b"}};
  bed.add_export("node", options);
  EXPECT_TRUE(bitmap.busy());
  EXPECT_EQ(add_fails([&] {
              auto again = named("again");
              again.bitmaps = {{"", "b"}};
              return again;
            }()).substr(0, 10),
            "Bitmap 'b'");
  EXPECT_FALSE(bed.reactor.run(bed.graph.remove(node)).ok());
  auto resizing = Edge::attach(node, Role::root, {Permissions::resize, Permissions::all}, "test");
  EXPECT_FALSE(resizing.ok());
  auto gone = bed.server->remove_export("a", NbdServer::RemoveMode::safe);
  ASSERT_TRUE(gone.ok());
  EXPECT_TRUE(bed.reactor.run((*gone)->close()).ok());
  EXPECT_FALSE(bitmap.busy());
  EXPECT_EQ(removed, 1);
  EXPECT_TRUE(bed.reactor.run(bed.graph.remove(node)).ok());
}

TEST_F(NbdServerTest, SafeRemovalSparesClientsHardDropsThem) {
  bed.serve();
  bed.add_export("node", named("a"));
  bed.add_export("node", named("b"));
  auto client = bed.client(), bystander = bed.client();
  client.enter(Headers::structured, "a");
  bystander.enter(Headers::structured, "b");
  const auto refused = bed.server->remove_export("a", NbdServer::RemoveMode::safe);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(), "export 'a' still in use");
  EXPECT_EQ(client.read(0, 512).error, 0u);

  disk->hold();
  client.send_request({0, Command::read, 1, 0, 512});
  seconds(1);
  auto gone = bed.server->remove_export("a", NbdServer::RemoveMode::hard);
  ASSERT_TRUE(gone.ok());
  EXPECT_EQ(bed.server->remove_export("a", NbdServer::RemoveMode::hard).error().message(),
            "Export 'a' is not found");
  auto closing = (*gone)->close().release();
  closing.resume();
  seconds(1);
  EXPECT_FALSE(closing.promise().finished);      // its request is still with the disk
  disk->release();
  EXPECT_TRUE(client.closed());
  while (!closing.promise().finished) bed.reactor.turn();
  closing.destroy();
  EXPECT_EQ(removed, 1);
  EXPECT_EQ(bystander.read(0, 512).error, 0u);
}

TEST_F(NbdServerTest, AnExportRemovedDuringTheHandshakeIsNotEntered) {
  bed.serve();
  bed.add_export("node", named("a"));
  auto client = bed.client();
  client.greet();
  auto gone = bed.server->remove_export("a", NbdServer::RemoveMode::safe);
  ASSERT_TRUE(gone.ok());
  EXPECT_TRUE(bed.reactor.run((*gone)->close()).ok());
  EXPECT_EQ(client.info_or_go(Option::go, "a").back().type, nbd::OptionReply::unknown_export);
}

TEST_F(NbdServerTest, ConnectionsAreLimited) {
  NbdServerOptions options;
  options.max_connections = 2;
  bed.serve(options);
  bed.add_export("node", named(""));
  auto first = bed.client(), second = bed.client(), third = bed.client();
  first.enter(Headers::simple);
  second.enter(Headers::simple);
  seconds(1);
  EXPECT_EQ(bed.server->clients(), 2u);
  first.close();
  third.enter(Headers::simple);                  // was waiting
  EXPECT_EQ(bed.server->clients(), 2u);
}

TEST_F(NbdServerTest, WhoSaysNothingHoldsUpNobody) {
  NbdServerOptions options;
  options.max_connections = 2;
  bed.serve(options);
  bed.add_export("node", named(""));
  auto served = bed.client();
  served.enter(Headers::simple);
  std::list<RawNbdClient> silent;
  for (int i = 0; i < 300; ++i) {
    silent.emplace_back(bed.reactor, bed.address);
    if (i % 2) silent.back().greet();
  }
  const Instant before = bed.reactor.now();
  auto other = bed.client();
  other.enter(Headers::simple);
  EXPECT_EQ(other.read(0, 512).error, 0u);
  EXPECT_EQ(served.read(0, 512).error, 0u);
  EXPECT_EQ(bed.server->clients(), 2u);
  EXPECT_TRUE(silent.front().try_receive(MutableBytes(greeting)));
  EXPECT_TRUE(silent.front().closed());          // the first to come went first
  EXPECT_LT(bed.reactor.now() - before, std::chrono::seconds(4));
}

TEST_F(NbdServerTest, AllOfACrowdAreServed) {
  bed.serve(NbdServerOptions());
  bed.add_export("node", named(""));
  std::list<RawNbdClient> crowd;
  for (int i = 0; i < 90; ++i) crowd.emplace_back(bed.reactor, bed.address);
  const auto slowly = [](RawNbdClient& client) { client.enter(Headers::simple); };
  for (RawNbdClient& client : crowd) slowly(client);
  for (RawNbdClient& client : crowd) EXPECT_EQ(client.read(0, 512).error, 0u);
}

// Those who have said what they want wait for as long as it takes, and in order.
TEST_F(NbdServerTest, WhoWaitsForASlotIsNotDropped) {
  NbdServerOptions options;
  options.max_connections = 1;
  options.handshakes_max = 2;
  bed.serve(options);
  bed.add_export("node", named(""));
  auto served = std::make_unique<RawNbdClient>(bed.reactor, bed.address);
  served->enter(Headers::simple);
  std::list<RawNbdClient> waiting;
  nbd::Message go;
  nbd::encode_info_request(go, nbd::InfoRequest{"", {}});
  for (int i = 0; i < 3; ++i) {                  // one more than there is room for
    waiting.emplace_back(bed.reactor, bed.address);
    if (i == 2) break;
    waiting.back().greet();
    waiting.back().send_option(Option::go, go);
    seconds(1);
  }
  seconds(60);
  EXPECT_EQ(bed.server->clients(), 1u);
  served.reset();
  for (int i = 0; i < 3; ++i) {
    RawNbdClient& next = waiting.front();
    if (i == 2) next.greet(), next.send_option(Option::go, go);
    while (next.receive_answer(Option::go).type != nbd::OptionReply::ack) {}
    EXPECT_EQ(next.read(0, 512).error, 0u);
    EXPECT_EQ(bed.server->clients(), 1u);
    waiting.pop_front();
  }
}

TEST_F(NbdServerTest, WhoGoesWaitsForNoSlot) {
  NbdServerOptions options;
  options.max_connections = 1;
  options.handshakes_max = 2;
  bed.serve(options);
  bed.add_export("node", named(""));
  auto served = bed.client();
  served.enter(Headers::simple);
  nbd::Message go;
  nbd::encode_info_request(go, nbd::InfoRequest{"", {}});
  for (int i = 0; i < 6; ++i) {                  // more than there is room for
    auto waiting = bed.client();
    waiting.greet();
    waiting.send_option(Option::go, go);
    seconds(1);
    EXPECT_EQ(bed.server->clients(), 1u);
  }
  auto other = bed.client();
  other.greet();
  EXPECT_EQ(other.info_or_go(Option::info, "").back().type, nbd::OptionReply::ack);
}

// What cannot be had takes no slot away.
TEST_F(NbdServerTest, ARefusedChoiceGivesItsSlotBack) {
  NbdServerOptions options;
  options.max_connections = 1;
  bed.serve(options);
  bed.add_export("node", named(""));
  auto wrong = bed.client();
  wrong.greet();
  EXPECT_EQ(wrong.info_or_go(Option::go, "nosuch").back().type, nbd::OptionReply::unknown_export);
  EXPECT_EQ(bed.server->clients(), 0u);
  auto right = bed.client();
  right.enter(Headers::simple);
  EXPECT_EQ(right.read(0, 512).error, 0u);
}

TEST_F(NbdServerTest, ASingleConnectionIsNotMulti) {
  NbdServerOptions options;
  options.max_connections = 1;
  bed.serve(options);
  EXPECT_FALSE(bed.add_export("node", named("")).flags(Headers::simple, false) &
               nbd::export_flag::can_multi_conn);
}

TEST_F(NbdServerTest, ListensOnSeveralAddresses) {
  NbdServerOptions options;
  options.addresses = {bed.address, {SocketAddress::Kind::inet, "", "127.0.0.1", "0"}};
  bed.serve(options);
  bed.add_export("node", named(""));
  const auto addresses = bed.server->addresses();
  ASSERT_EQ(addresses.size(), 2u);
  for (const SocketAddress& address : addresses) {
    RawNbdClient client(bed.reactor, address);
    client.enter(Headers::simple);
    EXPECT_EQ(client.read(0, 512).error, 0u);
  }
}

TEST_F(NbdServerTest, ListenFailsWhole) {
  NbdServerOptions options;
  options.addresses = {{SocketAddress::Kind::unix_path, "/a.sock", "", ""},
                       {SocketAddress::Kind::unix_path, "/nosuch/b.sock", "", ""}};
  EXPECT_FALSE(bed.reactor.run(NbdServer::listen(bed.reactor, options)).ok());
  options.addresses.pop_back();
  bed.serve(options);                            // the first is free again
}

TEST_F(NbdServerTest, OrderlyStopAnswersWhatIsInFlight) {
  bed.serve();
  bed.add_export("node", named(""));
  auto client = bed.client(), haggling = bed.client();
  client.enter(Headers::structured);
  haggling.greet();
  disk->hold();
  const nbd::Request read{0, Command::read, 1, 0, 512};
  client.send_request(read);
  seconds(1);
  auto stopping = bed.server->stop(NbdServer::StopMode::orderly).release();
  stopping.resume();
  sleep(std::chrono::milliseconds(100));
  disk->release();
  EXPECT_EQ(client.receive_reply(read).error, 0u);
  EXPECT_TRUE(client.closed());
  EXPECT_TRUE(haggling.closed());
  while (!stopping.promise().finished) bed.reactor.turn();
  stopping.destroy();
  EXPECT_EQ(removed, 1);
  EXPECT_TRUE(bed.server->exports().empty());
}

TEST_F(NbdServerTest, OrderlyStopDoesNotWaitForThoseWhoDoNotRead) {
  bed.serve();
  bed.add_export("node", named(""));
  auto client = bed.client();
  client.enter(Headers::structured);
  client.write(0, std::vector<std::byte>(8 * MiB, std::byte{1}));
  client.send_request({0, Command::read, 1, 0, 8 * MiB});
  seconds(1);
  const Instant before = bed.reactor.now();
  bed.stop(NbdServer::StopMode::orderly);
  EXPECT_LT(bed.reactor.now() - before, std::chrono::seconds(5));
}

TEST_F(NbdServerTest, AClientThatDoesNotReadIsBoundAndHoldsUpNobody) {
  bed.serve();
  bed.add_export("node", named(""));
  auto greedy = bed.client(), other = bed.client();
  greedy.enter(Headers::structured);
  other.enter(Headers::structured);
  greedy.write(0, std::vector<std::byte>(1 * MiB, std::byte{1}));
  disk->log.clear();
  for (std::uint64_t i = 0; i < 500; ++i) greedy.send_request({0, Command::read, i, 0, 1 * MiB});
  seconds(10);
  EXPECT_LE(disk->count(Call::read), Credit::client_total / MiB + 1);
  EXPECT_GE(disk->count(Call::read), 31u);
  EXPECT_EQ(other.read(0, 4096).error, 0u);
  greedy.close();
  seconds(1);
  EXPECT_EQ(bed.server->clients(), 1u);
}

TEST_F(NbdServerTest, AFloodOfRefusedRequestsIsBoundToo) {
  bed.serve();
  bed.add_export("node", named(""));
  auto client = bed.client(), other = bed.client();
  client.enter(Headers::structured);
  other.enter(Headers::structured);
  // As much as the server takes from a client that reads none of its answers.
  std::vector<std::byte> flood;
  for (std::uint64_t i = 0; i < 64 * 1024; ++i) {
    const auto bytes = RawNbdClient::encode(Headers::structured, {0, static_cast<Command>(99), i, 0, 0});
    flood.insert(flood.end(), bytes.begin(), bytes.end());
  }
  EXPECT_FALSE(client.send_within(flood, std::chrono::seconds(10)));
  EXPECT_EQ(other.read(0, 512).error, 0u);
}

TEST_F(NbdServerTest, RequestsWaitWhileTheDiskIsDrained) {
  bed.serve();
  bed.add_export("node", named(""));
  auto client = bed.client();
  client.enter(Headers::structured, "", {"base:allocation"});
  const nbd::Request read{0, Command::read, 1, 0, 512};
  const nbd::Request status{0, Command::block_status, 2, 0, 512};
  {
    auto guard = bed.reactor.run(bed.graph.drain(*bed.graph.find("node")));
    ASSERT_TRUE(guard.ok());
    client.send_request(read);
    client.send_request(status);
    seconds(1);
    EXPECT_EQ(disk->count(Call::read), 0u);
  }
  std::uint64_t cookie = 0;
  for (int i = 0; i < 2; ++i) {
    Answer answer;
    EXPECT_TRUE(client.receive_part(cookie, answer, [](std::uint64_t) { return 0; }, 0));
    EXPECT_EQ(answer.error, 0u);
  }
}

class NbdLossTest : public NbdServerTest {
 protected:
  NbdLossTest() {
    bed.serve();
    bed.add_export("node", named(""));
  }
  RawNbdClient connect() { return bed.client(); }
  static std::uint32_t flush(RawNbdClient& client) { return client.command(Command::flush).error; }
  static void write(RawNbdClient& client) {
    const std::vector<std::byte> data(512, std::byte{1});
    EXPECT_EQ(client.write(0, data).error, 0u);
  }
  void lose() {
    disk->fail_next(Error(Errc::io, "the cache is gone", EIO));
    EXPECT_FALSE(bed.reactor.run(bed.graph.find("node")->make_durable()).ok());
  }
  void expect_told_once(RawNbdClient& client) {
    EXPECT_EQ(flush(client), 5u);
    EXPECT_EQ(flush(client), 0u);
  }
};

TEST_F(NbdLossTest, WhoComesAgainIsToldWhatItsConnectionWasNot) {
  auto beside = connect();
  beside.enter(Headers::simple);
  {
    auto gone = connect();
    gone.enter(Headers::simple);
    write(gone);
    disk->hold();
    gone.send_request({0, Command::flush, 7, 0, 0});
    seconds(1);
    disk->fail_next(Error(Errc::io, "the cache is gone", EIO));
  }
  seconds(1);
  disk->release();
  seconds(1);
  auto again = connect();
  again.enter(Headers::simple);
  EXPECT_EQ(flush(again), 5u);
  expect_told_once(beside);
  EXPECT_EQ(flush(again), 0u);
  auto late = connect();
  late.enter(Headers::simple);
  EXPECT_EQ(flush(late), 0u);
}

TEST_F(NbdLossTest, WhatWasLostWhileItWasAway) {
  {
    auto gone = connect();
    gone.enter(Headers::simple);
    write(gone);
  }
  seconds(1);
  lose();
  auto again = connect();
  again.enter(Headers::simple);
  expect_told_once(again);
}

// The answer may not have reached it: it comes again before the server knows that it is gone.
TEST_F(NbdLossTest, WhoComesAgainBeforeItIsGone) {
  auto cut_off = connect();
  cut_off.enter(Headers::simple);
  write(cut_off);
  disk->fail_next(Error(Errc::io, "the cache is gone", EIO));
  EXPECT_EQ(flush(cut_off), 5u);
  auto again = connect();
  again.enter(Headers::simple);
  expect_told_once(again);
  EXPECT_EQ(flush(cut_off), 0u);
}

TEST_F(NbdLossTest, WhoHasHeardOfItOwesNothing) {
  for (const bool told : {true, false}) {
    auto client = connect();
    client.enter(Headers::simple);
    write(client);
    if (told) disk->fail_next(Error(Errc::io, "the cache is gone", EIO));
    EXPECT_EQ(flush(client), told ? 5u : 0u);
    client.send_request({0, Command::disconnect, 0, 0, 0});
    EXPECT_TRUE(client.closed());
    if (!told) lose();                           // it is durable
    auto next = connect();
    next.enter(Headers::simple);
    EXPECT_EQ(flush(next), 0u) << told;
  }
}

}  // namespace
}  // namespace tidemark::test
