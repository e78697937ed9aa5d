#include "base/json.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/random.hpp"
#include "base/utf8.hpp"

namespace tidemark {
namespace {

Json parsed(std::string_view text) {
  Result<Json> outcome = parse_json(text);
  EXPECT_TRUE(outcome) << text << ": " << (outcome ? "" : outcome.error().message());
  return outcome ? *outcome : Json("did not parse");
}

std::string refusal(std::string_view text, const JsonLimits& limits = {}) {
  Result<Json> outcome = parse_json(text, limits);
  EXPECT_FALSE(outcome) << text;
  if (outcome) return {};
  EXPECT_EQ(outcome.error().code(), Errc::invalid_format);
  EXPECT_EQ(outcome.error().message().find('\n'), std::string::npos);
  return outcome.error().message();
}

TEST(Json, Scalars) {
  EXPECT_EQ(parsed(" null "), Json());
  EXPECT_EQ(parsed("true"), Json(true));
  EXPECT_EQ(parsed("\tfalse\r\n"), Json(false));
  EXPECT_EQ(parsed("-17"), Json(-17));
  EXPECT_EQ(parsed("-0"), Json(0));
  EXPECT_EQ(parsed("1.5e3"), Json(1500.0));
}

TEST(Json, IntegersKeepSixtyFourBitsOfEitherSign) {
  EXPECT_EQ(parsed("9223372036854775807").kind(), Json::Kind::integer);
  EXPECT_EQ(parsed("9223372036854775808").kind(), Json::Kind::unsigned_integer);
  EXPECT_EQ(parsed("18446744073709551615"), Json(std::numeric_limits<std::uint64_t>::max()));
  EXPECT_EQ(parsed("18446744073709551616"), Json(18446744073709551616.0));
  EXPECT_EQ(parsed("-9223372036854775808"), Json(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(parsed("-9223372036854775809").kind(), Json::Kind::number);
  std::int64_t whole = 0;
  std::uint64_t natural = 0;
  EXPECT_FALSE(parsed("18446744073709551615").to_int64(whole));
  EXPECT_FALSE(parsed("-1").to_uint64(natural));
  EXPECT_FALSE(parsed("1.0").to_int64(whole));
  EXPECT_TRUE(parsed("1").to_uint64(natural));
}

TEST(Json, StringsOfBothQuotesAndAllEscapes) {
  EXPECT_EQ(parsed(R"('say "hi"')"), Json("say \"hi\""));
  EXPECT_EQ(parsed(R"("it's")"), Json("it's"));
  EXPECT_EQ(parsed(R"('\'\"\\\/\b\f\n\r\t')"), Json("'\"\\/\b\f\n\r\t"));
  EXPECT_EQ(parsed(R"("\u0041\u00e9\u2028\ud83d\uDE00")"), Json("A\u00e9\u2028\U0001f600"));
  EXPECT_EQ(parsed(R"("a\u0000b")"), Json("a\xc0\x80"
                                          "b"))
      << "no string holds a NUL";
  EXPECT_EQ(parsed("\"\xc3\xa9\x7f\""), Json("\xc3\xa9\x7f"));
}

TEST(Json, RefusesWhatIsNotAString) {
  EXPECT_EQ(refusal(R"("\ud800")"),
            "line 1, column 2: JSON parse error, \\ud800 is not a valid Unicode character");
  EXPECT_NE(refusal(R"("\ud83d\u0041")").find("\\ud83d is not"), std::string::npos);
  for (const char* bad :
       {R"("\uDC00")", R"("\uFFFE")", R"("\ufdd0")", R"("\u12")", R"("\u-123")", R"("\u+123")"})
    EXPECT_NE(refusal(bad).find("is not a valid Unicode character"), std::string::npos) << bad;
  EXPECT_NE(refusal(R"("\x41")").find("invalid escape sequence in string"), std::string::npos);
  for (const char* bad :
       {"'\xc3('", "'\xff'", "'\x80'", "'\xc1\x80'", "'\xe0\x80\x80'", "'\xed\xa0\x80'",
        "'\xf4\x90\x80\x80'", "'\xf8\x80\x80\x80\x80'", "'\xc3'", "'\xef\xbf\xbe'"})
    EXPECT_NE(refusal(bad).find("invalid UTF-8 sequence in string"), std::string::npos);
  EXPECT_NE(refusal("'a\nb'").find("control character in string"), std::string::npos);
  for (const char* bad : {"'abc", "\"abc'", "'abc\\'", "'\\"}) EXPECT_NE(refusal(bad), "");
  EXPECT_NE(refusal(std::string("'a\0b'", 5)), "");
}

TEST(Json, RefusesWhatIsNotANumber) {
  for (const char* bad :
       {"01", "-", "-a", "1.", ".5", "+1", "1e", "1e+", "0x10", "1.e5", "--1", "1-2", "00"})
    refusal(bad);
  EXPECT_NE(refusal("1e400").find("out of range"), std::string::npos);
  for (const char* bad : {"NaN", "nan", "Infinity", "-Infinity", "inf", "True", "nul", "nullx"})
    refusal(bad);
}

TEST(Json, ErrorsNameThePlaceAndTheReason) {
  EXPECT_EQ(refusal(""), "line 1, column 1: JSON parse error, expecting value");
  EXPECT_EQ(refusal("{\n  'a': 1,\n  'b' 2}"), "line 3, column 7: JSON parse error, expecting ':'");
  EXPECT_EQ(refusal("[1 2]"), "line 1, column 4: JSON parse error, expected ',' or ']'");
  EXPECT_EQ(refusal("{'a':1 'b'"), "line 1, column 8: JSON parse error, expected ',' or '}'");
  EXPECT_EQ(refusal("{1:2}"), "line 1, column 2: JSON parse error, key is not a string in object");
  EXPECT_EQ(refusal("[1,]"), "line 1, column 4: JSON parse error, expecting value");
  EXPECT_EQ(refusal("{'a':1,}"),
            "line 1, column 8: JSON parse error, key is not a string in object");
  EXPECT_EQ(refusal("nope"), "line 1, column 1: JSON parse error, invalid keyword 'nope'");
  EXPECT_EQ(refusal("{} x"), "line 1, column 4: JSON parse error, unexpected text after the value");
  EXPECT_EQ(refusal("{'a':1,\n'b':2,'a':3}"), "line 2, column 7: JSON parse error, duplicate key");
}

TEST(Json, DepthTokensAndSizeAreBound) {
  const auto nested = [](std::size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_TRUE(parse_json(nested(1024)));
  EXPECT_NE(refusal(nested(1025)).find("nesting depth limit exceeded"), std::string::npos);
  EXPECT_NE(refusal(std::string(1 << 20, '{')), "");
  EXPECT_NE(refusal("[1,2,3]", {.tokens_max = 3}).find("token count limit exceeded"),
            std::string::npos);
  EXPECT_TRUE(parse_json("[1,2]", {.tokens_max = 3}));
  EXPECT_NE(refusal("[1,2,3]", {.size_max = 6}).find("size limit exceeded"), std::string::npos);
}

TEST(Json, ManyMembersParseInLittleMoreThanLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += "\"k" + std::to_string(i) + "\":0,";
  EXPECT_EQ(parsed(text + "'x':1}").as_object().size(), 200'001u);
  EXPECT_NE(refusal(text + "'k77':1}").find("duplicate key"), std::string::npos);
}

TEST(Json, MembersKeepTheirOrderAndAreFoundSetAndRemoved) {
  Json json = Json::object({{"b", 1}, {"a", Json::array({1, "x"})}});
  EXPECT_EQ(to_text(json), R"({"b": 1, "a": [1, "x"]})");
  json.set("b", nullptr);
  json.set("c", true);
  EXPECT_TRUE(json.remove("a"));
  EXPECT_FALSE(json.remove("a"));
  EXPECT_EQ(to_text(json), R"({"b": null, "c": true})");
  EXPECT_EQ(json.find("a"), nullptr);
  EXPECT_EQ(Json(1).find("a"), nullptr);
  EXPECT_TRUE(json.find("c")->as_bool());
}

TEST(Json, TextIsAsciiInQemusForm) {
  EXPECT_EQ(to_text(Json("a\"\\/\b\f\n\r\t\x01\x7f")), R"("a\"\\/\b\f\n\r\t\u0001\u007F")");
  EXPECT_EQ(to_text(Json("\u00e9\u2028\U0001f600")), R"("\u00E9\u2028\uD83D\uDE00")");
  EXPECT_EQ(to_text(Json("\xc0\x80")), R"("\u0000")");
  EXPECT_EQ(to_text(Json("a\xff\xc3(z")), R"("a\uFFFD\uFFFD(z")");
  EXPECT_EQ(to_text(Json(std::string_view("\0", 1))), R"("\u0000")");
  EXPECT_EQ(to_text(Json(0.1)), "0.1");
  EXPECT_EQ(to_text(Json(1.0)), "1");
  EXPECT_EQ(to_text(Json(-0.0)), "-0.0");
  EXPECT_EQ(to_text(Json(std::nan(""))), "null");
  EXPECT_EQ(to_text(Json::object()), "{}");
  EXPECT_EQ(to_text(Json::array()), "[]");
}

TEST(Json, PrettyText) {
  const Json json = parsed("{'a': [1, {'b': []}], 'c': {}}");
  EXPECT_EQ(to_text(json, 4),
            "{\n    \"a\": [\n        1,\n        {\n            \"b\": []\n        }\n    ],\n    "
            "\"c\": {}\n}");
  EXPECT_EQ(parsed(to_text(json, 2)), json);
}

// Properties, over values made by a seed.

std::string random_string(Prng& random) {
  std::string text;
  for (auto n = random.below(12); n != 0; --n) {
    static constexpr std::int32_t ranges[] = {0x80, 0x80, 0x80, 0x800, 0x10000, 0x110000};
    const auto code = static_cast<std::int32_t>(
        random.below(static_cast<std::uint64_t>(ranges[random.below(6)])));
    if (is_unicode_character(code)) append_utf8(text, code);
  }
  return text;
}

Json random_scalar(Prng& random) {
  switch (random.below(6)) {
    case 0: return nullptr;
    case 1: return random.chance(1, 2);
    case 2: return static_cast<std::int64_t>(random()) >> random.below(64);
    case 3: return random() >> random.below(64);
    case 4: {
      const double real = std::ldexp(static_cast<double>(random() >> 11) + 0.5,
                                     static_cast<int>(random.below(600)) - 400);
      return real == std::floor(real) ? 0.5 : real;
    }
    default: return random_string(random);
  }
}

Json random_json(Prng& random, unsigned depth) {
  if (depth == 0 || random.chance(1, 3)) return random_scalar(random);
  Json value = random.chance(1, 2) ? Json::array() : Json::object();
  for (auto n = random.below(5); n != 0; --n) {
    if (value.is_array())
      value.push_back(random_json(random, depth - 1));
    else
      value.set(random_string(random), random_json(random, depth - 1));
  }
  return value;
}

TEST(JsonProperty, TextReadsBackAsTheSameValue) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Prng random(seed);
    const Json value = random_json(random, 5);
    for (unsigned indent : {0u, 3u}) {
      const std::string text = to_text(value, indent);
      for (char c : text)
        ASSERT_TRUE((c >= ' ' && c < 0x7f) || (indent && c == '\n')) << "seed " << seed;
      ASSERT_EQ(parsed(text), value) << "seed " << seed << ": " << text;
    }
  }
}

TEST(JsonProperty, DamagedTextIsRefusedOrReadsAsSomethingThatRoundTrips) {
  for (std::uint64_t seed = 0; seed < 5000; ++seed) {
    Prng random(seed);
    std::string text = to_text(random_json(random, 4));
    for (auto n = 1 + random.below(3); n != 0; --n) {
      const auto at = random.below(text.size());
      if (random.chance(1, 2))
        text[at] = static_cast<char>(random());
      else if (random.chance(1, 2))
        text.erase(at, 1 + random.below(4));
      else
        text.insert(at, 1, "{}[]:,'\"\\0"[random.below(10)]);
      if (text.empty()) text = " ";
    }
    const Result<Json> outcome = parse_json(text);
    if (outcome)
      ASSERT_EQ(parsed(to_text(*outcome)), *outcome) << "seed " << seed << ": " << text;
    else
      ASSERT_NE(outcome.error().message(), "");
  }
}

// The stream.

std::vector<std::string> outcomes(std::vector<std::string_view> chunks, JsonLimits limits = {}) {
  JsonStream stream(limits);
  std::vector<std::string> seen;
  for (std::string_view chunk : chunks) {
    stream.feed(chunk);
    while (auto outcome = stream.next()) seen.push_back(*outcome ? to_text(**outcome) : "error");
  }
  return seen;
}

using Texts = std::vector<std::string>;

TEST(JsonStream, ValuesEndWhereTheirBracketsDo) {
  EXPECT_EQ(outcomes({"{}[1]\"a\" 'b'{\"}\":']'}"}),
            (Texts{"{}", "[1]", "\"a\"", "\"b\"", "{\"}\": \"]\"}"}));
  EXPECT_EQ(outcomes({"{'a':", "1", "}", "  "}), (Texts{"{\"a\": 1}"}));
  EXPECT_EQ(outcomes({"1 2,"}), (Texts{"1", "2", "error"}))
      << "a scalar ends before what follows it";
  EXPECT_EQ(outcomes({"tr", "ue", "\n"}), (Texts{"true"}));
  EXPECT_EQ(outcomes({"'a\\'b", "\\", "'c'"}), (Texts{"\"a'b'c\""}));
  EXPECT_EQ(outcomes({"{'a'", "  :  1"}), (Texts{}));
}

TEST(JsonStream, OneErrorForAValueThatDoesNotParse) {
  EXPECT_EQ(outcomes({"{'a': [01, {}], 'b' 2}{}"}), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"{]{}"}), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"]{}"}), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"nope {}"}), (Texts{"error", "{}"}));
}

TEST(JsonStream, ABrokenByteForcesAKnownState) {
  EXPECT_EQ(outcomes({"{'a': ['x\xff{'execute':'quit'}"}),
            (Texts{"error", "{\"execute\": \"quit\"}"}));
  EXPECT_EQ(outcomes({"{'a': [\x01{}"}), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"{'a\n{}"}), (Texts{"error", "{}"})) << "no string spans lines";
  EXPECT_EQ(outcomes({"$ not json at all\n{}"}), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"GET / HTTP/1.1\r\n"}), (Texts{"error", "error"}));
  EXPECT_EQ(outcomes({"\xff\xff"}), (Texts{"error", "error"}));
}

TEST(JsonStream, LimitsAreOneErrorEachAndMemoryIsBound) {
  const JsonLimits small{.depth_max = 4, .size_max = 16};
  EXPECT_EQ(outcomes({"[[[[[[1]]]]]]{}"}, small), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"['", std::string(1000, 'a'), "',[]]", "{}"}, small), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"'", std::string(15, 'a'), "'{}"}, small), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({std::string(1000, '1'), " {}"}, small), (Texts{"error", "{}"}));
  EXPECT_EQ(outcomes({"[[[[[['\xff{}"}, small), (Texts{"error", "{}"}))
      << "one error, then resynchronised";
}

TEST(JsonStream, HowTheBytesArriveDoesNotMatter) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    Prng random(seed);
    std::string all;
    for (int i = 0; i < 4; ++i) all += to_text(random_json(random, 3)) + " ";
    if (random.chance(1, 2))
      all[random.below(all.size())] = "\x01\xff'\"[]{},:\\ "[random.below(13)];
    std::vector<std::string_view> pieces;
    for (std::size_t at = 0; at < all.size();) {
      const auto length = std::min<std::size_t>(1 + random.below(7), all.size() - at);
      pieces.push_back(std::string_view(all).substr(at, length));
      at += length;
    }
    ASSERT_EQ(outcomes(pieces), outcomes({all})) << "seed " << seed << ": " << all;
  }
}

}  // namespace
}  // namespace tidemark
