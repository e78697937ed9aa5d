// Json: a JSON value, and the dialect of JSON that QMP speaks.
//
// Written here and not taken from a library because QMP's dialect is not JSON: strings may be
// single-quoted, integers keep 64 bits of either sign, a number beyond that becomes a double, keys
// keep their order, a repeated key is an error, and input is a stream whose values end where their
// brackets do (QEMU's docs/interop/qmp-spec.rst; see docs/decisions).  Depth and size of input are bound.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.hpp"

namespace tidemark {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;          // in the order of insertion; keys are unique
  enum class Kind : std::uint8_t { null, boolean, integer, unsigned_integer, number, string, array, object };

  Json() noexcept {}                           // null; not defaulted: clang 14 needs to know it in here
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  template <class T>
    requires(std::is_integral_v<T> && !std::is_same_v<T, bool>)
  Json(T value) {
    if constexpr (std::is_signed_v<T>) value_ = static_cast<std::int64_t>(value);
    else if (value <= static_cast<std::uint64_t>(INT64_MAX)) value_ = static_cast<std::int64_t>(value);
    else value_ = static_cast<std::uint64_t>(value);
  }
  Json(double value) : value_(value) {}
  Json(std::string value) : value_(std::move(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(Array value) : value_(std::move(value)) {}
  Json(Object value) : value_(std::move(value)) {}
  // Json::object({{"a", 1}, {"b", "x"}})
  static Json object(std::initializer_list<Member> members = {}) { return Json(Object(members)); }
  static Json array(std::initializer_list<Json> items = {}) { return Json(Array(items)); }

  Kind kind() const noexcept { return static_cast<Kind>(value_.index()); }
  bool is_null() const noexcept { return kind() == Kind::null; }
  bool is_bool() const noexcept { return kind() == Kind::boolean; }
  bool is_int() const noexcept { return kind() == Kind::integer || kind() == Kind::unsigned_integer; }
  bool is_number() const noexcept { return is_int() || kind() == Kind::number; }
  bool is_string() const noexcept { return kind() == Kind::string; }
  bool is_array() const noexcept { return kind() == Kind::array; }
  bool is_object() const noexcept { return kind() == Kind::object; }

  // Each asserts its kind; look first when the value came from outside.
  bool as_bool() const { return get<bool>(); }
  const std::string& as_string() const { return get<std::string>(); }
  const Array& as_array() const { return get<Array>(); }
  Array& as_array() { return const_cast<Array&>(std::as_const(*this).get<Array>()); }
  const Object& as_object() const { return get<Object>(); }
  Object& as_object() { return const_cast<Object&>(std::as_const(*this).get<Object>()); }
  double as_double() const;                                // any number
  // The integer, if it is one and fits.
  bool to_int64(std::int64_t& out) const noexcept;
  bool to_uint64(std::uint64_t& out) const noexcept;

  // Objects: the member's value or nullptr (also when this is no object); set() replaces or appends;
  // remove() says whether it was there.
  const Json* find(std::string_view key) const noexcept;
  Json* find(std::string_view key) noexcept;
  Json& set(std::string_view key, Json value);
  bool remove(std::string_view key);
  void push_back(Json value) { as_array().push_back(std::move(value)); }

  friend bool operator==(const Json&, const Json&) = default;

 private:
  template <class T>
  const T& get() const {
    const T* value = std::get_if<T>(&value_);
    TM_ASSERT(value);
    return *value;
  }
  // Kind's order is this order.
  std::variant<std::nullptr_t, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object>
      value_;
};

struct JsonLimits {
  std::size_t depth_max = 1024;                 // QEMU's, as the next two are
  std::size_t tokens_max = 2 * 1024 * 1024;     // brackets, names and scalars of one value
  std::size_t size_max = 64 * 1024 * 1024;      // bytes of one value
};

// One value and nothing after it but white space.  Strings are valid modified UTF-8: \u0000 becomes
// the bytes c0 80, so that none holds a NUL.  Errors (Errc::invalid_format) name the place:
// "line 3, column 7: JSON parse error, expecting value".
Result<Json> parse_json(std::string_view text, const JsonLimits& limits = {});

// ASCII only.  Compact on one line with `indent` 0 ("{\"a\": 1}", QEMU's spacing), else pretty.
std::string to_text(const Json& value, unsigned indent = 0);

// Cuts a stream into top-level values: a value ends where its brackets balance, a scalar before the
// next white space.  Feed bytes as they come, then take outcomes until there is none.
//
// A value that does not parse, or breaks a limit, is one error and is skipped to its end.  A byte
// that cannot stand in JSON (0xff, a control character, a line end inside a string) is an error at
// once, ends the value under way, and the stream goes on at the next bracket, comma, colon, line or
// such byte: that is how a client forces the parser into a known state.  Memory is bound by
// size_max and what was fed.
class JsonStream {
 public:
  explicit JsonStream(JsonLimits limits = {}) : limits_(limits) {}
  void feed(std::string_view bytes);
  std::optional<Result<Json>> next();

 private:
  enum class State : std::uint8_t { between, word, quoted, escape, recovering };
  using Outcome = std::optional<Result<Json>>;

  Outcome step(char c, bool& consumed);
  Outcome between(char c);
  Outcome quoted(char c);
  Outcome keep(char c);
  Outcome keep_last(char c);
  Outcome finish_if_balanced();
  Outcome broken(char c);
  void reset();

  JsonLimits limits_;
  std::string input_;             // fed and not looked at yet, from at_ on
  std::size_t at_ = 0;
  std::string value_;             // the bytes of the value under way
  std::size_t braces_ = 0;        // open in it
  std::size_t brackets_ = 0;
  State state_ = State::between;
  char quote_ = 0;
  bool too_large_ = false;        // an error already; skipped to its end
};

}  // namespace tidemark
