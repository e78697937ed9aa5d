#include "schema/keyval.hpp"

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "schema/node.hpp"
#include "schema/options.hpp"
#include "schema/text_numbers.hpp"

namespace tidemark::schema {
namespace {

std::string parsed(std::string_view text, const KeyvalRules& rules = {}) {
  const Result<Json> outcome = parse_keyval(text, rules);
  return outcome ? to_text(*outcome) : outcome.error().message();
}

TEST(Keyval, PathsMakeObjectsAndArrays) {
  EXPECT_EQ(parsed(""), "{}");
  EXPECT_EQ(parsed("a=1,b=,c=x=y"), R"({"a": "1", "b": "", "c": "x=y"})");
  EXPECT_EQ(parsed("a.b.c=1,a.b.d=2,"), R"({"a": {"b": {"c": "1", "d": "2"}}})");
  EXPECT_EQ(parsed("a.1=y,a.0=x"), R"({"a": ["x", "y"]})");
  EXPECT_EQ(parsed("a.0.x=1,a.1.0=2"), R"({"a": [{"x": "1"}, ["2"]]})");
  EXPECT_EQ(parsed("a=1,a=2"), R"({"a": "2"})");
}

TEST(Keyval, CommasInValuesAreDoubled) {
  EXPECT_EQ(parsed("a=x,,y,b=,,,,"), R"({"a": "x,y", "b": ",,"})");
  EXPECT_EQ(parsed("a=,,,b=1"), R"({"a": ",", "b": "1"})");
}

TEST(Keyval, ImpliedKeyAndBareFlags) {
  EXPECT_EQ(parsed("qcow2,file=x", {.implied_key = "driver"}),
            R"({"driver": "qcow2", "file": "x"})");
  EXPECT_EQ(parsed("driver=raw", {.implied_key = "driver"}), R"({"driver": "raw"})");
  EXPECT_EQ(parsed("a=1,qcow2", {.implied_key = "driver"}), "Expected '=' after parameter 'qcow2'");
  EXPECT_EQ(parsed("socket,id=c,server,nowait", {.implied_key = "backend", .bare_flags = true}),
            R"({"backend": "socket", "id": "c", "server": "on", "wait": "off"})");
}

TEST(Keyval, Refusals) {
  EXPECT_EQ(parsed("a"), "Expected '=' after parameter 'a'");
  EXPECT_EQ(parsed("=1"), "Invalid parameter ''");
  EXPECT_EQ(parsed(",a=1"), "Invalid parameter ''");
  EXPECT_EQ(parsed("a..b=1"), "Invalid parameter 'a..b'");
  EXPECT_EQ(parsed("0=1"), "Invalid parameter '0'");
  EXPECT_EQ(parsed("a b=1"), "Invalid parameter 'a b'");
  EXPECT_EQ(parsed("a.1=x"), "Parameter 'a.0' missing");
  EXPECT_EQ(parsed("a.99999999999999999999=x"), "Parameter 'a.0' missing");
  EXPECT_EQ(parsed("a.0=x,a.00=x"), "Parameter 'a.1' missing");
  EXPECT_EQ(parsed("a.0=x,a.b=y"), "Parameters 'a.*' used inconsistently");
  EXPECT_EQ(parsed("a=x,a.b=y"), "Parameters 'a.*' used inconsistently");
  EXPECT_EQ(parsed("a.b=x,a=y"), "Parameters 'a.*' used inconsistently");
  EXPECT_NE(parsed(std::string(200, 'a') + "=1").find("is too long"), std::string::npos);
  std::string deep = "a";
  for (int i = 0; i < 10000; ++i) deep += ".a";
  EXPECT_NE(parsed(deep + "=1").find("is too deep"), std::string::npos);
}

TEST(Keyval, OptionsReadScalarsFromText) {
  auto node = from_option<BlockdevOptions>(
      "qcow2,node-name=a,read-only=on,cache.direct=yes,l2-cache-size=0x1000,file.driver=file,file."
      "filename=x,,y",
      {.implied_key = "driver"});
  ASSERT_TRUE(node) << node.error().message();
  const auto& qcow2 = std::get<BlockdevOptionsQcow2>(node->branch);
  EXPECT_TRUE(*node->read_only && node->cache->direct);
  EXPECT_EQ(qcow2.l2_cache_size, 4096);
  EXPECT_EQ(
      std::get<BlockdevOptionsFile>((*std::get<Box<BlockdevOptions>>(qcow2.file.value)).branch)
          .filename,
      "x,y");
  auto memory = from_option<BlockdevOptions>("driver=memory,size=1.5G");
  ASSERT_TRUE(memory);
  EXPECT_EQ(std::get<BlockdevOptionsMemory>(memory->branch).size, 1536u << 20);
}

TEST(Keyval, OptionsInJsonAreStrict) {
  EXPECT_TRUE(
      from_option<BlockdevOptions>("{'driver':'memory','size':4096}", {.implied_key = "driver"}));
  const auto loose = from_option<BlockdevOptions>("{'driver':'memory','size':'4k'}");
  ASSERT_FALSE(loose);
  EXPECT_EQ(loose.error().message(), "Parameter 'size' expects uint64");
  EXPECT_FALSE(from_option<BlockdevOptions>("{'driver':"));
}

TEST(Keyval, OptionsRefuseInQemusWords) {
  const auto refusal = [](std::string_view text) {
    const auto outcome = from_option<BlockdevOptions>(text, {.implied_key = "driver"});
    return outcome ? std::string("taken") : outcome.error().message();
  };
  EXPECT_EQ(refusal("file,filename=a,read-only=maybe"),
            "Parameter 'read-only' expects 'on' or 'off'");
  EXPECT_EQ(refusal("null-co,size=4k"), "Parameter 'size' expects integer");
  EXPECT_EQ(refusal("memory,size=4z"), "Parameter 'size' expects size");
  EXPECT_EQ(refusal("file,filename.a=1"), "Parameters 'filename.*' are unexpected");
  EXPECT_EQ(refusal("fault,file=a,rules.0.operation=read,rules.0.x=1"),
            "Parameter 'rules.0.x' is unexpected");
  EXPECT_EQ(refusal("file,filename=a,foo=1"), "Parameter 'foo' is unexpected");
}

TEST(Keyval, AnyTextEndsWell) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Prng random(seed);
    std::string text;
    for (auto n = random.below(40); n != 0; --n) text += "ab01.,=-_{\xff"[random.below(12)];
    const Result<Json> outcome =
        parse_keyval(text, {.implied_key = "k", .bare_flags = random.chance(1, 2)});
    if (outcome)
      EXPECT_TRUE(outcome->is_object()) << seed;
    else
      EXPECT_NE(outcome.error().message(), "") << seed;
  }
}

TEST(TextNumbers, Sizes) {
  const auto size = [](std::string_view text) {
    std::uint64_t out = 7;
    return parse_size(text, out) ? std::to_string(out) : "no";
  };
  EXPECT_EQ(size("0"), "0");
  EXPECT_EQ(size("64k"), "65536");
  EXPECT_EQ(size("64K"), "65536");
  EXPECT_EQ(size("512B"), "512");
  EXPECT_EQ(size("1.5M"), "1572864");
  EXPECT_EQ(size("0x10000"), "65536");
  EXPECT_EQ(size("15E"), "17293822569102704640");
  EXPECT_EQ(size("18446744073709551615"), "18446744073709551615");
  for (const char* bad :
       {"", "k", "-1", "16E", "18446744073709551616", "1.5", "1.5B", "1k2", "0x", "1 k", "1.k",
        ".5k", "15.9999999999999999999E", "1e3", "99999999999999999999k"})
    EXPECT_EQ(size(bad), "no") << bad;
}

TEST(TextNumbers, Integers) {
  const auto number = [](std::string_view text) {
    std::int64_t out = 7;
    return parse_int(text, out) ? std::to_string(out) : "no";
  };
  EXPECT_EQ(number("-9223372036854775808"), "-9223372036854775808");
  EXPECT_EQ(number("9223372036854775807"), "9223372036854775807");
  EXPECT_EQ(number("0x1f"), "31");
  EXPECT_EQ(number("-0x1F"), "-31");
  EXPECT_EQ(number("010"), "8");
  EXPECT_EQ(number("+1"), "1");
  EXPECT_EQ(number(" \t-1"), "-1");
  for (const char* bad : {"", "-", "9223372036854775808", "-9223372036854775809", "1k", "08", "--1",
                          "0x-1", "+-1", "+ 1", "1 ", " ", "+"})
    EXPECT_EQ(number(bad), "no") << bad;
}

// As qemu-storage-daemon takes them.
TEST(TextNumbers, UnsignedIntegers) {
  const auto number = [](std::string_view text) {
    std::uint64_t out = 7;
    return parse_uint(text, out) ? std::to_string(out) : "no";
  };
  EXPECT_EQ(number("18446744073709551615"), "18446744073709551615");
  EXPECT_EQ(number("-1"), "18446744073709551615");
  EXPECT_EQ(number("-18446744073709551615"), "1");
  EXPECT_EQ(number(" +0x10"), "16");
  for (const char* bad : {"", "-", "18446744073709551616", "-18446744073709551616", "1k", "1.5", "--1", "1 "})
    EXPECT_EQ(number(bad), "no") << bad;
}

}  // namespace
}  // namespace tidemark::schema
