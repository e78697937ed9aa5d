#include "nbd/option.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nbd/golden.hpp"
#include "nbd/status.hpp"

namespace tidemark::nbd {
namespace {

TEST(NbdOption, GreetingIsTheDocuments) {
  Message out;
  encode_greeting(out, handshake_flag::fixed_newstyle | handshake_flag::no_zeroes);
  EXPECT_EQ(out, hex("4e42444d41474943 49484156454f5054 0003"));
  EXPECT_EQ(*decode_greeting(out), 3);
}

TEST(NbdOption, GreetingOfAnotherServerIsRefused) {
  EXPECT_FALSE(decode_greeting(hex("4e42444d41474943 00420281861253 0000 0000")).ok());   // oldstyle
  EXPECT_FALSE(decode_greeting(hex("535348 2d322e302d4f70656e5353485f 0003")).ok());
  EXPECT_FALSE(decode_greeting(hex("4e42444d41474943 49484156454f5054 0002")).ok());      // not fixed
  EXPECT_FALSE(decode_greeting(hex("4e42444d41474943 49484156454f5054")).ok());
}

TEST(NbdOption, HeadersAreTheDocuments) {
  Message option, reply;
  encode_option_header(option, {Option::go, 0x106});
  EXPECT_EQ(option, hex("49484156454f5054 00000007 00000106"));
  EXPECT_EQ(*decode_option_header(option), (OptionHeader{Option::go, 0x106}));
  encode_option_reply_header(reply, {Option::list, OptionReply::unsupported, 4});
  EXPECT_EQ(reply, hex("0003e889045565a9 00000003 80000001 00000004"));
  EXPECT_EQ(*decode_option_reply_header(reply),
            (OptionReplyHeader{Option::list, OptionReply::unsupported, 4}));
  EXPECT_FALSE(decode_option_header(reply).ok());
  EXPECT_FALSE(decode_option_reply_header(option).ok());
}

TEST(NbdOption, GoAsksForNameAndInfos) {
  Message out;
  encode_info_request(out, {"disk", {Info::name, Info::block_size}});
  EXPECT_EQ(out, hex("00000004 6469736b 0002 0001 0003"));
  EXPECT_EQ(*decode_info_request(out), (InfoRequest{"disk", {Info::name, Info::block_size}}));
  EXPECT_EQ(*decode_info_request(hex("00000000 0000")), InfoRequest{});
}

TEST(NbdOption, MalformedGoIsRefused) {
  for (const char* bad : {
           "", "00", "00000000", "00000000 00",          // too short
           "00000001 0000",                              // the name would be the count
           "ffffffff 6469736b 0000",                     // name beyond the data
           "00000000 0001", "00000000 0002 0001",        // infos missing
           "00000000 0000 0001", "00000000 0000 00",     // more than said
           "00000002 6100 0000",                         // NUL in the name
       })
    EXPECT_FALSE(decode_info_request(hex(bad)).ok()) << bad;
}

TEST(NbdOption, NamesAreBounded) {
  EXPECT_TRUE(check_string(std::string(string_size_max, 'x')).ok());
  EXPECT_FALSE(check_string(std::string(string_size_max + 1, 'x')).ok());
  Message out;
  encode_info_request(out, {std::string(string_size_max + 1, 'x'), {}});
  EXPECT_FALSE(decode_info_request(out).ok());
}

TEST(NbdOption, MetaContextQueries) {
  Message out;
  encode_context_request(out, {"d", {"base:allocation", "qemu:"}});
  EXPECT_EQ(out, hex("00000001 64 00000002 0000000f 626173653a616c6c6f636174696f6e"
                     "00000005 71656d753a"));
  EXPECT_EQ(*decode_context_request(out), (ContextRequest{"d", {"base:allocation", "qemu:"}}));
  EXPECT_TRUE(decode_context_request(hex("00000000 00000000"))->queries.empty());
}

TEST(NbdOption, MalformedMetaContextQueriesAreRefused) {
  for (const char* bad : {
           "", "00000000", "00000000 000000",
           "00000000 00000001",                          // query missing
           "00000000 ffffffff 00000000",                 // count that memory could not hold
           "00000000 00000001 00000002 61",              // query beyond the data
           "00000000 00000001 00000001 6161",            // more than said
           "00000000 00000001 00000001 00",              // NUL
       })
    EXPECT_FALSE(decode_context_request(hex(bad)).ok()) << bad;
}

TEST(NbdOption, InfoRepliesAreTheDocuments) {
  Message out;
  encode_info_export(out, Option::go, {1 << 20, 0x1ed});
  EXPECT_EQ(out, hex("0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 01ed"));
  out.clear();
  encode_info_text(out, Option::info, Info::name, "d");
  EXPECT_EQ(out, hex("0003e889045565a9 00000006 00000003 00000003 0001 64"));
  out.clear();
  encode_info_block_sizes(out, Option::go, {});
  EXPECT_EQ(out,
            hex("0003e889045565a9 00000007 00000003 0000000e 0003 00000001 00001000 02000000"));
  out.clear();
  encode_server_reply(out, {"d", "text"});
  EXPECT_EQ(out, hex("0003e889045565a9 00000003 00000002 00000009 00000001 64 74657874"));
  out.clear();
  encode_context_reply(out, Option::set_meta_context, {7, "base:allocation"});
  EXPECT_EQ(out, hex("0003e889045565a9 0000000a 00000004 00000013 00000007"
                     "626173653a616c6c6f636174696f6e"));
}

TEST(NbdOption, ExportNameReplyHasItsPadding) {
  Message out;
  encode_export_name_reply(out, {512, 0x3}, true);
  EXPECT_EQ(out, hex("0000000000000200 0003"));
  EXPECT_EQ(*decode_export_name_reply(out), (ExportInfo{512, 0x3}));
  out.clear();
  encode_export_name_reply(out, {512, 0x3}, false);
  EXPECT_EQ(out.size(), export_info_size + export_padding_size);
  EXPECT_TRUE(is_zero(Bytes(out).subspan(export_info_size)));
}

TEST(NbdOption, ClientDecodesInfoRepliesStrictly) {
  auto reply = decode_info_reply(hex("0003 00000200 00001000 02000000"));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->sizes, (BlockSizes{512, 4096, 32 * MiB}));
  EXPECT_EQ(decode_info_reply(hex("0002 6869"))->text, "hi");
  EXPECT_TRUE(decode_info_reply(hex("7777 0102")).ok());               // unknown: ignored
  for (const char* bad : {
           "", "00", "0000", "0000 0000000000100000",                  // too short
           "0000 0000000000100000 01ed 00",                            // too long
           "0000 ffffffffffffffff 01ed",                               // no disk is so large
           "0000 0000000000100000 01ec",                               // has_flags missing
           "0003 00000003 00001000 02000000",                          // not a power of two
           "0003 00000000 00001000 02000000", "0003 00020000 00020000 02000000",
           "0003 00000200 00000100 02000000",                          // preferred below minimum
           "0003 00000200 00001000 00000200",                          // maximum below preferred
           "0001 00",                                                  // NUL
       })
    EXPECT_FALSE(decode_info_reply(hex(bad)).ok()) << bad;
}

TEST(NbdOption, ErrorTextsAreCutToTheLimit) {
  Message out;
  encode_option_reply(out, Option::go, OptionReply::invalid, std::string(5000, 'e'));
  EXPECT_EQ(decode_option_reply_header(Bytes(out).first(option_reply_header_size))->length,
            string_size_max);
  EXPECT_EQ(out.size(), option_reply_header_size + string_size_max);
}

RC_GTEST_PROP(NbdOption, RequestsComeBackAsTheyWent, ()) {
  InfoRequest info;
  info.name = *arbitrary_name();
  for (auto value : *rc::gen::arbitrary<std::vector<std::uint16_t>>())
    info.infos.push_back(static_cast<Info>(value));
  Message out;
  encode_info_request(out, info);
  RC_ASSERT(*decode_info_request(out) == info);

  ContextRequest contexts{*arbitrary_name(), *rc::gen::container<std::vector<std::string>>(arbitrary_name())};
  out.clear();
  encode_context_request(out, contexts);
  RC_ASSERT(*decode_context_request(out) == contexts);
}

RC_GTEST_PROP(NbdOption, AnyCutOfARequestIsRefused, ()) {
  ContextRequest contexts{*arbitrary_name(), *rc::gen::container<std::vector<std::string>>(arbitrary_name())};
  Message out;
  encode_context_request(out, contexts);
  const auto cut = *rc::gen::inRange<std::size_t>(0, out.size());
  RC_ASSERT(!decode_context_request(Bytes(out).first(cut)).ok());
}

TEST(NbdStatus, ErrorsMapToTheDocumentsNumbers) {
  EXPECT_EQ(status_of(Error(Errc::no_space, "x")), Status::no_space);
  EXPECT_EQ(status_of(Error::from_errno(EDQUOT, "x")), Status::no_space);
  EXPECT_EQ(status_of(Error::from_errno(EFBIG, "x")), Status::no_space);
  EXPECT_EQ(status_of(Error::from_errno(EROFS, "x")), Status::not_permitted);
  EXPECT_EQ(status_of(Error(Errc::unsupported, "x")), Status::invalid);
  EXPECT_EQ(status_of(Error(Errc::corrupt, "x")), Status::io_error);
  EXPECT_EQ(known_status(75), Status::overflow);
  EXPECT_EQ(known_status(13), Status::invalid);
  EXPECT_EQ(to_errno(Status::shutdown), ESHUTDOWN);
}

}  // namespace
}  // namespace tidemark::nbd
