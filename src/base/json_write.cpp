// to_text: QEMU's form, byte for byte, numbers with a fraction excepted (the shortest text that
// reads back as the same number).
#include <charconv>
#include <cmath>

#include "base/json.hpp"
#include "base/json_chars.hpp"
#include "base/utf8.hpp"

namespace tidemark {
namespace {

constexpr std::int32_t replacement_character = 0xfffd;

class Writer {
 public:
  Writer(std::string& out, unsigned indent) : out_(out), indent_(indent) {}

  void value(const Json& json) {
    switch (json.kind()) {
      case Json::Kind::null: out_ += "null"; return;
      case Json::Kind::boolean: out_ += json.as_bool() ? "true" : "false"; return;
      case Json::Kind::integer:
      case Json::Kind::unsigned_integer: return integer(json);
      case Json::Kind::number: return number(json.as_double());
      case Json::Kind::string: return string(json.as_string());
      case Json::Kind::array: return array(json.as_array());
      case Json::Kind::object: return object(json.as_object());
    }
  }

 private:
  template <class T>
  void digits(T number) {
    char text[32];
    const auto [end, error] = std::to_chars(text, text + sizeof text, number);
    out_.append(text, end);
  }
  void integer(const Json& json) {
    std::int64_t whole = 0;
    std::uint64_t natural = 0;
    if (json.to_int64(whole))
      digits(whole);
    else if (json.to_uint64(natural))
      digits(natural);
  }
  void number(double real) {
    if (real == 0 && std::signbit(real))
      out_ += "-0.0";  // "-0" would read back as the integer
    else if (std::isfinite(real))
      digits(real);
    else
      out_ += "null";  // JSON has no name for it
  }

  void array(const Json::Array& items) {
    out_ += '[';
    ++depth_;
    for (std::size_t i = 0; i < items.size(); ++i) {
      separate(i == 0);
      value(items[i]);
    }
    close(items.empty(), ']');
  }
  void object(const Json::Object& members) {
    out_ += '{';
    ++depth_;
    for (std::size_t i = 0; i < members.size(); ++i) {
      separate(i == 0);
      string(members[i].first);
      out_ += ": ";
      value(members[i].second);
    }
    close(members.empty(), '}');
  }
  void separate(bool first) {
    if (!first) out_ += ',';
    if (indent_ != 0)
      new_line();
    else if (!first)
      out_ += ' ';
  }
  void close(bool empty, char bracket) {
    --depth_;
    if (indent_ != 0 && !empty) new_line();
    out_ += bracket;
  }
  void new_line() {
    out_ += '\n';
    out_.append(depth_ * indent_, ' ');
  }

  void string(std::string_view text) {
    out_ += '"';
    for (;;) {
      const std::size_t plain = json_chars::plain_length(text, '"');
      out_ += text.substr(0, plain);
      text.remove_prefix(plain);
      if (text.empty()) break;
      const Utf8Char c = decode_utf8(text);
      character(c.code < 0 ? replacement_character : c.code);
      text.remove_prefix(c.length);
    }
    out_ += '"';
  }
  void character(std::int32_t code) {
    static constexpr std::string_view named = "\"\\\b\f\n\r\t";
    static constexpr std::string_view names = "\"\\bfnrt";
    const std::size_t index =
        code > 0 && code < 0x80 ? named.find(static_cast<char>(code)) : named.npos;
    if (index != named.npos) {
      out_ += '\\';
      out_ += names[index];
    } else if (code > 0xffff) {
      escape(0xd800 + ((code - 0x10000) >> 10));
      escape(0xdc00 + ((code - 0x10000) & 0x3ff));
    } else if (code < 0x20 || code >= 0x7f) {
      escape(code);
    } else {
      out_ += static_cast<char>(code);
    }
  }
  void escape(std::int32_t unit) {
    static constexpr char hex[] = "0123456789ABCDEF";
    out_ += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out_ += hex[unit >> shift & 15];
  }

  std::string& out_;
  unsigned indent_;
  std::size_t depth_ = 0;
};

}  // namespace

std::string to_text(const Json& value, unsigned indent) {
  std::string out;
  Writer(out, indent).value(value);
  return out;
}

}  // namespace tidemark
