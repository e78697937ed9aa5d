// What comes over a QMP socket or a command line: any bytes end in a value or an error, values survive a
// round trip, and a stream says the same however its bytes arrive.
#include <cstdlib>

#include "schema/backup.hpp"
#include "schema/keyval.hpp"
#include "schema/node.hpp"
#include "schema/transaction.hpp"

namespace {

using namespace tidemark;

void require(bool holds) {
  if (!holds) std::abort();
}

std::vector<std::string> outcomes(std::string_view text, std::size_t piece) {
  JsonStream stream({.depth_max = 20, .tokens_max = 1000, .size_max = 4000});
  std::vector<std::string> seen;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    stream.feed(text.substr(at, piece));
    while (auto outcome = stream.next())
      seen.push_back(*outcome ? to_text(**outcome) : outcome->error().message());
  }
  return seen;
}

template <class T>
void read_as(const Json& value, schema::Spelling spelling) {
  const Result<T> read = schema::from_json<T>(value, spelling);
  if (!read || spelling == schema::Spelling::keyval) return;
  using schema::to_json;
  const Json written = to_json(*read);
  const Result<T> again = schema::from_json<T>(written);
  require(again.ok() && to_json(*again) == written);
}

void read_as_any(const Json& value, schema::Spelling spelling) {
  read_as<schema::BlockdevOptions>(value, spelling);
  read_as<schema::TransactionArguments>(value, spelling);
  read_as<schema::DriveBackup>(value, spelling);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const Result<Json> value = parse_json(text)) {
    const Result<Json> again = parse_json(to_text(*value));
    require(again.ok() && to_text(*again) == to_text(*value));
    read_as_any(*value, schema::Spelling::json);
  }
  require(outcomes(text, text.size() + 1) == outcomes(text, 3));
  if (const Result<Json> value = schema::parse_keyval(text, {.implied_key = "driver"}))
    read_as_any(*value, schema::Spelling::keyval);
  return 0;
}
