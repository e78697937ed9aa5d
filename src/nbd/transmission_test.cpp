#include "nbd/transmission.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "nbd/golden.hpp"

namespace tidemark::nbd {
namespace {

std::vector<std::byte> status_chunk(Headers headers, std::uint32_t context,
                                    std::span<const Extent> extents) {
  std::vector<std::byte> out(status_payload_size(extents.size(), headers));
  encode_status_chunk(out.data(), headers, context, extents);
  return out;
}

template <std::size_t N>
std::vector<std::byte> bytes_of(const std::byte (&array)[N], std::size_t size = N) {
  return {array, array + size};
}

TEST(NbdRequest, CompactIsTheDocuments) {
  const Request request{command_flag::fua, Command::write, 0x1122334455667788, 0x200000, 0x1000};
  std::byte out[28];
  encode_request(out, Headers::structured, request);
  EXPECT_EQ(bytes_of(out), hex("25609513 0001 0001 1122334455667788 0000000000200000 00001000"));
  EXPECT_EQ(decode_request(out, Headers::simple), request);
  EXPECT_EQ(payload_length(request, Headers::simple), 0x1000u);
}

TEST(NbdRequest, ExtendedIsTheDocuments) {
  const Request request{0, Command::write_zeroes, 1, 0, std::uint64_t{1} << 40};
  std::byte out[32];
  encode_request(out, Headers::extended, request);
  EXPECT_EQ(bytes_of(out), hex("21e41c71 0000 0006 0000000000000001 0000000000000000 0000010000000000"));
  EXPECT_EQ(decode_request(out, Headers::extended), request);
}

TEST(NbdRequest, MagicOfTheOtherHeaderIsRefused) {
  std::byte out[32] = {};
  encode_request(out, Headers::extended, {});
  EXPECT_FALSE(decode_request(out, Headers::structured));
  encode_request(out, Headers::simple, {});
  EXPECT_FALSE(decode_request(out, Headers::extended));
}

TEST(NbdRequest, PayloadGoesByTheFlagWithExtendedHeaders) {
  Request request{0, Command::write, 0, 0, 512};
  EXPECT_EQ(payload_length(request, Headers::structured), 512u);
  EXPECT_EQ(payload_length(request, Headers::extended), 0u);
  request.flags = command_flag::payload_len;
  EXPECT_EQ(payload_length(request, Headers::extended), 512u);
  request.command = Command::read;
  EXPECT_EQ(payload_length(request, Headers::structured), 0u);
  EXPECT_EQ(payload_length(request, Headers::extended), 512u);
}

TEST(NbdRequest, StatusQuery) {
  std::vector<std::byte> out;
  encode_status_query(out, {0x10000, {0, 2}});
  EXPECT_EQ(out, hex("0000000000010000 00000000 00000002"));
  EXPECT_EQ(*decode_status_query(out), (StatusQuery{0x10000, {0, 2}}));
  EXPECT_TRUE(decode_status_query(hex("0000000000010000"))->contexts.empty());
  EXPECT_FALSE(decode_status_query(hex("00000000000100")).ok());
  EXPECT_FALSE(decode_status_query(hex("0000000000010000 0000")).ok());
  EXPECT_FALSE(decode_status_query(hex("0000000000010000 00000001 00000001")).ok());
}

TEST(NbdReply, SimpleIsTheDocuments) {
  std::byte out[16];
  encode_simple_reply(out, Status::no_space, 0x0102030405060708);
  EXPECT_EQ(bytes_of(out), hex("67446698 0000001c 0102030405060708"));
  const ReplyHeader reply = decode_reply_header(out);
  EXPECT_TRUE(reply.simple);
  EXPECT_EQ(reply.error, 28u);
  EXPECT_EQ(reply.chunk.cookie, 0x0102030405060708u);
}

TEST(NbdReply, ChunkHeadersAreTheDocuments) {
  std::byte out[32];
  ChunkHeader chunk{chunk_flag::done, Chunk::offset_data, 9, 0x4000, 0x1008};
  EXPECT_EQ(encode_chunk_header(out, Headers::structured, chunk), 20u);
  EXPECT_EQ(bytes_of(out, 20), hex("668e33ef 0001 0001 0000000000000009 00001008"));
  EXPECT_EQ(encode_chunk_header(out, Headers::extended, chunk), 32u);
  EXPECT_EQ(bytes_of(out), hex("6e8a278c 0001 0001 0000000000000009 0000000000004000 0000000000001008"));
  EXPECT_EQ(decode_reply_header(out).chunk, chunk);
}

TEST(NbdReply, OnlyWhatWasNegotiatedIsAHeader) {
  EXPECT_EQ(reply_header_size(simple_reply_magic, Headers::simple), 16u);
  EXPECT_EQ(reply_header_size(simple_reply_magic, Headers::structured), 16u);
  EXPECT_EQ(reply_header_size(simple_reply_magic, Headers::extended), 0u);
  EXPECT_EQ(reply_header_size(structured_reply_magic, Headers::simple), 0u);
  EXPECT_EQ(reply_header_size(structured_reply_magic, Headers::structured), 20u);
  EXPECT_EQ(reply_header_size(structured_reply_magic, Headers::extended), 0u);
  EXPECT_EQ(reply_header_size(extended_reply_magic, Headers::structured), 0u);
  EXPECT_EQ(reply_header_size(extended_reply_magic, Headers::extended), 32u);
  EXPECT_EQ(reply_header_size(0x12345678, Headers::extended), 0u);
}

TEST(NbdReply, Holes) {
  std::byte out[offset_hole_size];
  encode_offset_hole(out, {0x10000, 0x2000});
  EXPECT_EQ(bytes_of(out), hex("0000000000010000 00002000"));
  EXPECT_EQ(*decode_offset_hole(out), (Hole{0x10000, 0x2000}));
  EXPECT_FALSE(decode_offset_hole(hex("0000000000010000 00000000")).ok());
  EXPECT_FALSE(decode_offset_hole(hex("0000000000010000 000020")).ok());
  EXPECT_FALSE(decode_offset_hole(hex("0000000000010000 00002000 00")).ok());
}

TEST(NbdReply, BlockStatusIsTheDocuments) {
  const Extent extents[] = {{0x10000, 0}, {0x30000, 3}};
  EXPECT_EQ(status_chunk(Headers::structured, 1, extents),
            hex("00000001 00010000 00000000 00030000 00000003"));
  EXPECT_EQ(status_chunk(Headers::extended, 1, extents),
            hex("00000001 00000002 0000000000010000 0000000000000000"
                "0000000000030000 0000000000000003"));
}

TEST(NbdReply, MalformedBlockStatusIsRefused) {
  for (const char* bad : {"", "000000", "00000001", "00000001 00010000",
                          "00000001 00000000 00000000",                     // empty extent
                          "00000001 00010000 00000000 00"})
    EXPECT_FALSE(decode_status_chunk(hex(bad), Headers::structured).ok()) << bad;
  for (const char* bad : {"", "00000001", "00000001 00000000", "00000001 00000001",
                          "00000001 00000002 0000000000010000 0000000000000000",  // count too large
                          "00000001 00000000 0000000000010000 0000000000000000",
                          "00000001 00000001 0000000000000000 0000000000000000"})
    EXPECT_FALSE(decode_status_chunk(hex(bad), Headers::extended).ok()) << bad;
}

TEST(NbdReply, ErrorChunks) {
  std::byte out[error_prefix_size];
  encode_error(out, Status::invalid, 2);
  EXPECT_EQ(bytes_of(out), hex("00000016 0002"));
  EXPECT_EQ(*decode_error(hex("00000016 0002 6e6f"), Chunk::error),
            (ErrorChunk{22, "no", std::nullopt}));
  EXPECT_EQ(*decode_error(hex("00000005 0000 0000000000000200"), Chunk::error_offset),
            (ErrorChunk{5, "", 0x200}));
  // An error chunk of a later protocol: its known part counts.
  EXPECT_EQ(decode_error(hex("00000005 0001 78 112233"), static_cast<Chunk>(0x8077))->message, "x");
}

TEST(NbdReply, MalformedErrorChunksAreRefused) {
  for (const char* bad : {"", "00000016 00", "00000016 0001",
                          "00000000 0000",                                  // no error
                          "00000016 0000 00"})
    EXPECT_FALSE(decode_error(hex(bad), Chunk::error).ok()) << bad;
  EXPECT_FALSE(decode_error(hex("00000005 0000 00000200"), Chunk::error_offset).ok());
  std::vector<std::byte> long_message = hex("00000005 1001");
  long_message.resize(6 + 0x1001, std::byte{'x'});
  EXPECT_FALSE(decode_error(long_message, Chunk::error).ok());
}

RC_GTEST_PROP(NbdTransmission, RequestsComeBackAsTheyWent, ()) {
  Request request;
  request.flags = *rc::gen::arbitrary<std::uint16_t>();
  request.command = static_cast<Command>(*rc::gen::arbitrary<std::uint16_t>());
  request.cookie = *rc::gen::arbitrary<std::uint64_t>();
  request.offset = *rc::gen::arbitrary<std::uint64_t>();
  request.length = *rc::gen::arbitrary<std::uint32_t>();
  const auto headers = *rc::gen::element(Headers::simple, Headers::structured, Headers::extended);
  std::vector<std::byte> out(request_size(headers));
  encode_request(out.data(), headers, request);
  RC_ASSERT(decode_request(out.data(), headers) == request);
}

RC_GTEST_PROP(NbdTransmission, BlockStatusComesBackAsItWent, ()) {
  StatusChunk chunk;
  chunk.context = *rc::gen::arbitrary<std::uint32_t>();
  for (auto length : *rc::gen::nonEmpty<std::vector<std::uint32_t>>())
    chunk.extents.push_back({length | 1u, length >> 3});
  const auto headers = *rc::gen::element(Headers::structured, Headers::extended);
  const auto out = status_chunk(headers, chunk.context, chunk.extents);
  RC_ASSERT(*decode_status_chunk(out, headers) == chunk);
  const auto cut = *rc::gen::inRange<std::size_t>(0, out.size());
  const auto part = decode_status_chunk(Bytes(out).first(cut), headers);
  if (headers == Headers::extended) RC_ASSERT(!part.ok());      // it says how many there are
}

}  // namespace
}  // namespace tidemark::nbd
