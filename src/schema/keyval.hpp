// Options of command lines: `driver=qcow2,node-name=a,file.driver=file,file.filename=x`.
//
// A key is a path: `a.b` is member b of object a, `a.0` the first element of array a.  A comma in a
// value is written twice.  All scalars are strings; read them with Spelling::keyval.
#pragma once

#include "schema/input.hpp"

namespace tidemark::schema {

struct KeyvalRules {
  std::string_view implied_key;  // what a first value without a key belongs to; empty for none
  bool bare_flags = false;       // `server,nowait` is `server=on,wait=off`
};

// An object.  Errors name the parameter, in QEMU's words.
Result<Json> parse_keyval(std::string_view text, const KeyvalRules& rules = {});

// The same, or a JSON object when the text begins with '{', which is read strictly.
template <class T>
Result<T> from_option(std::string_view text, const KeyvalRules& rules = {}) {
  const bool json = text.starts_with('{');
  Result<Json> value = json ? parse_json(text) : parse_keyval(text, rules);
  if (!value) return value.error();
  return from_json<T>(*value, json ? Spelling::json : Spelling::keyval);
}

}  // namespace tidemark::schema
