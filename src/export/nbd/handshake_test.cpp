// The option haggling, with clients that do and do not keep to the protocol.
#include "export/nbd/handshake.hpp"

#include "export/nbd/test_bed.hpp"
#include "io/sim/backend.hpp"
#include "nbd/golden.hpp"

namespace tidemark::test {
namespace {

using nbd::Headers;
using nbd::Info;
using nbd::Option;
using nbd::OptionReply;

class NbdHandshakeTest : public testing::TestWithParam<std::uint64_t> {
 protected:
  NbdHandshakeTest() {
    disk.size = 1 * MiB;
    bed.add_disk("node", disk);
    bed.serve();
    NbdExportOptions options;
    options.name = "disk";
    options.description = "a disk";
    options.writable = true;
    options.allocation_depth = true;
    bed.add_export("node", options);
    options.name = "";
    options.description = "";
    options.writable = false;
    options.allocation_depth = false;
    bed.add_export("node", options);
  }

  SimWorld world{GetParam()};
  SimBackend io{world};
  NbdBed bed{io};
  TestDriverOptions disk;
};
INSTANTIATE_TEST_SUITE_P(Seeds, NbdHandshakeTest, testing::Range<std::uint64_t>(1, 5));

std::vector<std::string> names(const std::vector<OptionAnswer>& answers) {
  std::vector<std::string> all;
  for (const auto& answer : answers)
    if (answer.type == OptionReply::meta_context)
      all.push_back(nbd::decode_context_reply(answer.data)->name);
  return all;
}

TEST_P(NbdHandshakeTest, GreetsFixedNewstyle) {
  auto client = bed.client();
  EXPECT_EQ(client.greet(), 3);
  EXPECT_EQ(client.outcome(Option::abort), OptionReply::ack);
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, UnknownClientFlagsEndTheConnection) {
  auto client = bed.client();
  client.greet(1 | 4);
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, AnotherMagicEndsTheConnection) {
  auto client = bed.client();
  client.greet();
  client.send(nbd::hex("49484156454f5055 00000003 00000000"));
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, UnknownOptionsAreSkippedAndRefused) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(static_cast<Option>(4)), OptionReply::unsupported);
  const std::vector<std::byte> data(300 * KiB, std::byte{'x'});
  EXPECT_EQ(client.outcome(static_cast<Option>(0xdeadbeef), data), OptionReply::unsupported);
  EXPECT_EQ(client.outcome(Option::list), OptionReply::ack);
}

TEST_P(NbdHandshakeTest, LongOptionsAreRefusedButSkipped) {
  auto client = bed.client();
  client.greet();
  const std::vector<std::byte> data(NbdHandshake::option_size_max + 1);
  EXPECT_EQ(client.outcome(Option::go, data), OptionReply::too_big);
  EXPECT_EQ(client.outcome(Option::list), OptionReply::ack);
}

TEST_P(NbdHandshakeTest, EndlessOptionsEndTheConnection) {
  auto client = bed.client();
  client.greet();
  nbd::Message header;
  nbd::encode_option_header(header, {Option::list, 32 * MiB + 1});
  client.send(header);
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, TooManyOptionsEndTheConnection) {
  auto client = bed.client();
  client.greet();
  nbd::Message flood;
  for (int i = 0; i < 200; ++i) nbd::encode_option_header(flood, {static_cast<Option>(99), 0});
  client.send(flood);
  bool ended = false;
  for (int i = 0; i < 200 && !ended; ++i) {
    std::byte reply[nbd::option_reply_header_size + 14];
    ended = !client.try_receive(reply);
  }
  EXPECT_TRUE(ended);
}

TEST_P(NbdHandshakeTest, AbortIsAnsweredWhateverItCarries) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(Option::abort, nbd::hex("010203")), OptionReply::ack);
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, ListsExports) {
  auto client = bed.client();
  client.greet();
  const auto answers = client.option(Option::list);
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_EQ(*nbd::decode_server_reply(answers[0].data), (nbd::ServerReply{"", ""}));
  EXPECT_EQ(*nbd::decode_server_reply(answers[1].data), (nbd::ServerReply{"disk", "a disk"}));
  EXPECT_EQ(answers[2].type, OptionReply::ack);
  EXPECT_EQ(client.outcome(Option::list, nbd::hex("00")), OptionReply::invalid);
}

TEST_P(NbdHandshakeTest, TlsIsRefused) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(Option::starttls), OptionReply::policy);
  EXPECT_EQ(client.outcome(Option::starttls, nbd::hex("00")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::list), OptionReply::ack);
}

TEST_P(NbdHandshakeTest, InfoTellsWhatGoTells) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(Option::structured_reply), OptionReply::ack);
  const std::vector<Info> infos{Info::name, Info::block_size, static_cast<Info>(77)};
  const auto info = client.info_or_go(Option::info, "disk", infos);
  const auto go = client.info_or_go(Option::go, "disk", infos);
  ASSERT_EQ(info.size(), 5u);
  ASSERT_EQ(go.size(), info.size());
  for (std::size_t i = 0; i < info.size(); ++i) {
    EXPECT_EQ(info[i].type, go[i].type);
    EXPECT_EQ(info[i].data, go[i].data);
  }
  const nbd::ExportInfo expected{1 * MiB, 0x0ded};
  EXPECT_EQ(nbd::decode_info_reply(info[0].data)->export_info, expected);
  EXPECT_EQ(nbd::decode_info_reply(info[1].data)->text, "disk");
  EXPECT_EQ(nbd::decode_info_reply(info[2].data)->text, "a disk");
  EXPECT_EQ(nbd::decode_info_reply(info[3].data)->sizes, (nbd::BlockSizes{1, 4096, 32 * MiB}));
}

TEST_P(NbdHandshakeTest, FlagsFollowTheExportAndWhatWasNegotiated) {
  auto client = bed.client();
  client.greet();
  auto flags = [&](std::string name) {
    return nbd::decode_info_reply(client.info_or_go(Option::info, name)[0].data)->export_info.flags;
  };
  EXPECT_EQ(flags("disk"), 0x0d6d);              // no DF without structured replies
  EXPECT_EQ(flags(""), 0x050f);
  EXPECT_EQ(client.outcome(Option::extended_headers), OptionReply::ack);
  EXPECT_EQ(flags("disk"), 0x0ded);
  EXPECT_EQ(flags(""), 0x058f);
  client.contexts(Option::set_meta_context, "disk", {"base:allocation"});
  EXPECT_EQ(flags("disk"), 0x1ded);              // as QEMU's
  EXPECT_EQ(flags(""), 0x058f);
}

TEST_P(NbdHandshakeTest, UnknownExportsAreRefusedAndTheHagglingGoesOn) {
  auto client = bed.client();
  client.greet();
  const auto answer = client.info_or_go(Option::go, "nosuch").back();
  EXPECT_EQ(answer.type, OptionReply::unknown_export);
  EXPECT_EQ(answer.text(), "export 'nosuch' not present");
  EXPECT_EQ(client.info_or_go(Option::info, "disk\xff").back().type, OptionReply::unknown_export);
  EXPECT_EQ(client.info_or_go(Option::go, "disk").back().type, OptionReply::ack);
}

TEST_P(NbdHandshakeTest, MalformedOptionsAreInvalidAndTheHagglingGoesOn) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(Option::go, nbd::hex("")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::go, nbd::hex("00000004 6469736b")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::go, nbd::hex("ffffffff 6469736b 0000")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::info, nbd::hex("00000000 0001")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::structured_reply, nbd::hex("00")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::extended_headers, nbd::hex("00")), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::structured_reply), OptionReply::ack);
  EXPECT_EQ(client.outcome(Option::structured_reply), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::set_meta_context, nbd::hex("00000000 00000001")),
            OptionReply::invalid);
  EXPECT_EQ(client.info_or_go(Option::go, "disk").back().type, OptionReply::ack);
}

TEST_P(NbdHandshakeTest, ExtendedHeadersTakePrecedence) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.outcome(Option::structured_reply), OptionReply::ack);
  EXPECT_EQ(client.outcome(Option::extended_headers), OptionReply::ack);
  EXPECT_EQ(client.outcome(Option::extended_headers), OptionReply::invalid);
  EXPECT_EQ(client.outcome(Option::structured_reply), OptionReply::extended_headers_required);
  client.send_option(Option::export_name, as_bytes("disk"));      // not allowed any more
  EXPECT_TRUE(client.closed());
}

TEST_P(NbdHandshakeTest, ExportNameEntersTransmission) {
  for (const bool no_zeroes : {false, true}) {
    auto client = bed.client();
    client.greet(no_zeroes ? 3 : 1);
    client.send_option(Option::export_name, as_bytes("disk"));
    const auto reply = client.receive(no_zeroes ? 10 : 134);
    const nbd::ExportInfo expected{1 * MiB, 0x0d6d};
    EXPECT_EQ(*nbd::decode_export_name_reply(Bytes(reply).first(10)), expected);
    EXPECT_TRUE(is_zero(Bytes(reply).subspan(10)));
    EXPECT_EQ(client.read(0, 512).data.size(), 512u);
  }
}

TEST_P(NbdHandshakeTest, ExportNameOfNoneEndsTheConnection) {
  for (std::size_t size : {std::size_t{6}, std::size_t{5000}, std::size_t{300 * KiB}}) {
    auto client = bed.client();
    client.greet();
    client.send_option(Option::export_name, as_bytes(std::string(size, 'n')));
    EXPECT_TRUE(client.closed());
  }
}

TEST_P(NbdHandshakeTest, MetaContextsNeedStructuredReplies) {
  auto client = bed.client();
  client.greet();
  EXPECT_EQ(client.contexts(Option::list_meta_context, "disk", {}).back().type,
            OptionReply::invalid);
  EXPECT_EQ(client.contexts(Option::set_meta_context, "disk", {"base:allocation"}).back().type,
            OptionReply::invalid);
}

TEST_P(NbdHandshakeTest, ListsMetaContexts) {
  using Names = std::vector<std::string>;
  auto client = bed.client();
  client.greet();
  client.option(Option::structured_reply);
  auto list = [&](Names queries) {
    return names(client.contexts(Option::list_meta_context, "disk", queries));
  };
  const Names all{"base:allocation", "qemu:allocation-depth"};
  EXPECT_EQ(list({}), all);
  EXPECT_EQ(list({"base:"}), Names{"base:allocation"});
  EXPECT_EQ(list({"qemu:"}), Names{"qemu:allocation-depth"});
  EXPECT_EQ(list({"qemu:", "base:allocation", "qemu:allocation-depth"}), all);
  EXPECT_EQ(list({"qemu:dirty-bitmap:"}), Names{});
  EXPECT_EQ(list({"base:al", "other:", "nocolon", ""}), Names{});
  EXPECT_EQ(client.contexts(Option::list_meta_context, "nosuch", {}).back().type,
            OptionReply::unknown_export);
}

TEST_P(NbdHandshakeTest, SelectsMetaContexts) {
  using Names = std::vector<std::string>;
  auto client = bed.client();
  client.greet();
  client.option(Option::structured_reply);
  auto select = [&](Names queries) {
    return names(client.contexts(Option::set_meta_context, "disk", queries));
  };
  EXPECT_EQ(select({}), Names{});
  EXPECT_EQ(select({"base:", "qemu:", "qemu:dirty-bitmap:"}), Names{});      // no wildcards here
  EXPECT_EQ(select({"other:x", "base:allocation", "base:allocation"}), Names{"base:allocation"});
  const auto answers =
      client.contexts(Option::set_meta_context, "disk", {"qemu:allocation-depth", "base:allocation"});
  ASSERT_EQ(answers.size(), 3u);
  EXPECT_NE(nbd::decode_context_reply(answers[0].data)->id,
            nbd::decode_context_reply(answers[1].data)->id);
}

TEST_P(NbdHandshakeTest, AFailedSelectionForgetsTheFormer) {
  auto client = bed.client();
  client.greet();
  client.option(Option::structured_reply);
  client.contexts(Option::set_meta_context, "disk", {"base:allocation"});
  EXPECT_EQ(client.outcome(Option::set_meta_context, nbd::hex("00")), OptionReply::invalid);
  client.info_or_go(Option::go, "disk");
  client.assume(Headers::structured);
  EXPECT_EQ(client.command(nbd::Command::block_status, 0, 512).error, 22u);
}

TEST_P(NbdHandshakeTest, ContextsOfAnotherExportDoNotCount) {
  auto client = bed.client();
  client.greet();
  client.option(Option::structured_reply);
  client.contexts(Option::set_meta_context, "", {"base:allocation"});
  client.info_or_go(Option::go, "disk");
  client.assume(Headers::structured);
  EXPECT_EQ(client.command(nbd::Command::block_status, 0, 512).error, 22u);
}

TEST_P(NbdHandshakeTest, ASilentClientIsDroppedAfterTheLimit) {
  auto silent = bed.client();
  const Instant before = bed.reactor.now();
  silent.receive(nbd::greeting_size);
  EXPECT_TRUE(silent.closed());
  EXPECT_GE(bed.reactor.now() - before, std::chrono::seconds(9));
  EXPECT_LT(bed.reactor.now() - before, std::chrono::seconds(11));
}

TEST_P(NbdHandshakeTest, ADrippingClientIsDroppedAfterTheLimit) {
  auto client = bed.client();
  client.greet();
  bool dropped = false;
  for (int i = 0; i < 30 && !dropped; ++i) {
    EXPECT_TRUE(bed.reactor.run(bed.reactor.sleep(std::chrono::seconds(1))).ok());
    dropped = !client.send(nbd::hex("49"));
  }
  EXPECT_TRUE(dropped);
}

}  // namespace
}  // namespace tidemark::test
