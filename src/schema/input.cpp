#include "schema/input.hpp"

#include <cmath>

#include "schema/text_numbers.hpp"

namespace tidemark::schema {
namespace {

// The text of a scalar from a command line.
const std::string* keyval_text(const Input& in) {
  if (in.value().is_string()) return &in.value().as_string();
  in.fail("Parameters '" + in.path() + ".*' are unexpected");
  return nullptr;
}

}  // namespace

std::string Input::path() const {
  if (!parent_) return "null";
  std::string all = parent_->parent_ ? parent_->path() : std::string();
  if (name_.data()) return all.empty() ? std::string(name_) : all + "." + std::string(name_);
  return all + (keyval() ? "." + std::to_string(index_) : "[" + std::to_string(index_) + "]");
}

std::string Input::short_name() const { return name_.data() ? std::string(name_) : "null"; }

std::string Input::path_of(std::string_view member) const {
  return parent_ ? path() + "." + std::string(member) : std::string(member);
}

void Input::fail(std::string message) const {
  if (report_.failed) return;
  report_.failed = true;
  report_.message = std::move(message);
}

void Input::fail_type(std::string_view expected) const {
  fail("Invalid parameter type for '" + path() + "', expected: " + std::string(expected));
}

void Input::fail_value(std::string_view expects) const {
  fail("Parameter '" + path() + "' expects " + std::string(expects));
}

void Input::fail_alternate(std::string_view expected) const {
  fail("Invalid parameter type for '" + short_name() + "', expected: " + std::string(expected));
}

void Input::fail_range(std::string_view expects) const {
  fail("Parameter '" + short_name() + "' expects " + std::string(expects));
}

Members::Members(const Input& object) : object_(object) {
  if (object.value().is_object())
    taken_.resize(object.value().as_object().size());
  else
    object.fail_type("object");
}

const Json* Members::take(std::string_view name, bool required) {
  if (!ok()) return nullptr;
  const Json::Object& members = object_.value().as_object();
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (members[i].first != name) continue;
    taken_[i] = true;
    return &members[i].second;
  }
  if (required) object_.fail("Parameter '" + object_.path_of(name) + "' is missing");
  return nullptr;
}

void Members::finish() {
  if (!ok()) return;
  for (std::size_t i = 0; i < taken_.size(); ++i) {
    if (taken_[i]) continue;
    const std::string name = object_.value().as_object()[i].first.substr(0, name_shown);
    return object_.fail("Parameter '" + object_.path_of(name) + "' is unexpected");
  }
}

void read(const Input& in, bool& out) {
  if (!in.keyval()) {
    if (!in.value().is_bool()) return in.fail_type("boolean");
    out = in.value().as_bool();
    return;
  }
  const std::string* text = keyval_text(in);
  if (!text) return;
  out = *text == "on" || *text == "yes" || *text == "true" || *text == "y";
  if (!out && *text != "off" && *text != "no" && *text != "false" && *text != "n")
    in.fail_value("'on' or 'off'");
}

void read(const Input& in, std::string& out) {
  if (in.value().is_string())
    out = in.value().as_string();
  else if (in.keyval())
    (void)keyval_text(in);
  else
    in.fail_type("string");
}

void read(const Input& in, double& out) {
  if (in.value().is_number() && !in.keyval()) {
    out = in.value().as_double();
    return;
  }
  const std::string* text = in.keyval() ? keyval_text(in) : nullptr;
  if (!text || !parse_real(*text, out)) in.fail_type("number");
}

void read(const Input& in, Json& out) { out = in.value(); }

void read(const Input& in, std::nullptr_t&) {
  if (!in.value().is_null()) in.fail_type("null");
}

void read(const Input& in, Size& out) {
  if (!in.keyval()) return read(in, out.bytes);
  const std::string* text = keyval_text(in);
  if (text && !parse_size(*text, out.bytes)) in.fail_value("size");
}

void read(const Input& in, std::int64_t& out) {
  if (!in.keyval()) {
    if (!in.value().to_int64(out)) in.fail_type("integer");
    return;
  }
  const std::string* text = keyval_text(in);
  if (text && !parse_int(*text, out)) in.fail_value("integer");
}

// A negative number stands for what is as far below 2^64, as in QEMU: there are clients that write all ones as -1.
void read(const Input& in, std::uint64_t& out) {
  if (!in.keyval()) {
    std::int64_t negative = 0;
    if (in.value().to_uint64(out)) return;
    if (!in.value().to_int64(negative)) return in.fail_value("uint64");
    out = static_cast<std::uint64_t>(negative);
    return;
  }
  const std::string* text = keyval_text(in);
  if (text && !parse_uint(*text, out)) in.fail_value("integer");
}

void read(const Input& in, Nothing&) { Members(in).finish(); }

std::size_t read_enum(const Input& in, std::span<const std::string_view> names) {
  std::string text;
  read(in, text);
  if (!in.ok()) return 0;
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return i;
  in.fail("Parameter '" + in.short_name() + "' does not accept value '" + text + "'");
  return 0;
}

}  // namespace tidemark::schema
