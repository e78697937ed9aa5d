// From JSON to the types of the schema: strict, with QEMU's messages.
//
//   Result<JobPauseArguments> arguments = schema::from_json<JobPauseArguments>(json);
//
// Every member must be known and of the right type; the first error ends it.  Input that came from
// a command line (schema/keyval.hpp) has strings for everything and is read with Spelling::keyval:
// numbers, sizes ("64k") and booleans ("on") are then taken from text.
//
// The generated part is one read_members() for each struct and union; the rest is here.
#pragma once

#include <concepts>
#include <limits>
#include <span>
#include <type_traits>

#include "base/json.hpp"
#include "schema/box.hpp"

namespace tidemark::schema {

enum class Spelling : std::uint8_t { json, keyval };

// Bytes, in a message, of a name that nobody knows: answers do not grow with what is asked.
inline constexpr std::size_t name_shown = 100;

// QMP's `size`: 64 bits; keyval takes suffixes (k, M, G, ...).
struct Size {
  std::uint64_t bytes = 0;
  constexpr Size() = default;
  constexpr Size(std::uint64_t value) : bytes(value) {}
  constexpr operator std::uint64_t() const noexcept { return bytes; }
};

// No members: the arguments of a command that takes none.
struct Nothing {};

// One value under reading, and the way to it from the root.  Lives on the stack.
class Input {
 public:
  struct Report {  // where the first error goes
    std::string message;
    bool failed = false;
  };
  Input(const Json& value, Spelling spelling, Report& report)
      : value_(value), spelling_(spelling), report_(report) {}
  Input(const Json& value, const Input& object, std::string_view member)
      : value_(value),
        spelling_(object.spelling_),
        report_(object.report_),
        parent_(&object),
        name_(member) {}
  Input(const Json& value, const Input& array, std::size_t index)
      : value_(value),
        spelling_(array.spelling_),
        report_(array.report_),
        parent_(&array),
        index_(index) {}

  const Json& value() const noexcept { return value_; }
  bool keyval() const noexcept { return spelling_ == Spelling::keyval; }
  bool ok() const noexcept { return !report_.failed; }

  // "file.driver", "actions[0].data"; "null" for the root, as QEMU has it.
  std::string path() const;
  // Only the last part of it, which is what some of QEMU's messages show; "null" for an element of an array.
  std::string short_name() const;
  std::string path_of(std::string_view member) const;

  void fail(std::string message) const;
  void fail_type(
      std::string_view expected) const;  // "Invalid parameter type for 'x', expected: ..."
  void fail_value(std::string_view expects) const;  // "Parameter 'x' expects ..."
  // The same two with the short name: for alternates, and for numbers that do not fit.
  void fail_alternate(std::string_view expected) const;
  void fail_range(std::string_view expects) const;

 private:
  const Json& value_;
  Spelling spelling_;
  Report& report_;
  const Input* parent_ = nullptr;
  std::string_view name_;
  std::size_t index_ = 0;
};

// The members of an object under reading.  finish() refuses those nobody asked for.
class Members {
 public:
  explicit Members(const Input& object);
  bool ok() const noexcept { return object_.ok(); }

  template <class T>
  void required(std::string_view name, T& out) {
    if (const Json* member = take(name, true)) read(Input(*member, object_, name), out);
  }
  template <class T>
  void optional(std::string_view name, std::optional<T>& out) {
    if (const Json* member = take(name, false)) read(Input(*member, object_, name), out.emplace());
  }
  template <class T>
  void defaulted(std::string_view name, T& out) {
    if (const Json* member = take(name, false)) read(Input(*member, object_, name), out);
  }
  void finish();

 private:
  const Json* take(std::string_view name, bool required);
  const Input& object_;
  std::vector<bool> taken_;
};

void read(const Input& in, bool& out);
void read(const Input& in, std::string& out);
void read(const Input& in, double& out);
void read(const Input& in, Json& out);
void read(const Input& in, std::nullptr_t& out);
void read(const Input& in, Size& out);
void read(const Input& in, std::int64_t& out);
void read(const Input& in, std::uint64_t& out);
void read(const Input& in, Nothing& out);

// The narrow integers, through the wide ones.
template <std::integral T>
requires(sizeof(T) < sizeof(std::int64_t) && !std::is_same_v<T, bool>) void read(const Input& in,
                                                                                 T& out) {
  using Wide = std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>;
  Wide wide = 0;
  read(in, wide);
  if (!in.ok()) return;
  if (wide < Wide{std::numeric_limits<T>::min()} || wide > Wide{std::numeric_limits<T>::max()})
    return in.fail_range(std::string(std::is_signed_v<T> ? "int" : "uint") +
                         std::to_string(8 * sizeof(T)) + "_t");
  out = static_cast<T>(wide);
}

// Enums have a generated names_of(), in the order of their values.
std::size_t read_enum(const Input& in, std::span<const std::string_view> names);

template <class E>
requires std::is_enum_v<E>
void read(const Input& in, E& out) {
  const std::size_t index = read_enum(in, names_of(out));
  if (in.ok()) out = static_cast<E>(index);
}

template <class E>
requires std::is_enum_v<E> std::optional<E> parse_enum(std::string_view name) {
  const std::span<const std::string_view> names = names_of(E());
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return static_cast<E>(i);
  return {};
}

template <class T>
void read(const Input& in, std::vector<T>& out) {
  if (!in.value().is_array()) return in.fail_type("array");
  const Json::Array& items = in.value().as_array();
  for (std::size_t i = 0; i < items.size() && in.ok(); ++i)
    read(Input(items[i], in, i), out.emplace_back());
}

template <class T>
void read(const Input& in, Box<T>& out) {
  read(in, *out);
}

// Structs and unions have a generated read_members().
template <class T>
concept HasMembers = requires(Members& in, T& out) {
  read_members(in, out);
};

template <HasMembers T>
void read(const Input& in, T& out) {
  Members members(in);
  if (members.ok()) read_members(members, out);
  members.finish();
}

template <class T>
Result<T> from_json(const Json& value, Spelling spelling = Spelling::json) {
  T out{};
  Input::Report report;
  read(Input(value, spelling, report), out);
  if (report.failed) return Error(Errc::invalid_argument, std::move(report.message));
  return out;
}

}  // namespace tidemark::schema
