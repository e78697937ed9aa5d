// Reading and writing the types of the schema.  The messages are what QEMU's storage daemon says to
// the same input.
#include "schema/input.hpp"

#include <gtest/gtest.h>

#include "schema/backup.hpp"
#include "schema/bitmap.hpp"
#include "schema/control.hpp"
#include "schema/description.hpp"
#include "schema/export.hpp"
#include "schema/info.hpp"
#include "schema/job.hpp"
#include "schema/node.hpp"
#include "schema/transaction.hpp"

namespace tidemark::schema {
namespace {

template <class T>
Result<T> from_text(std::string_view text) {
  Result<Json> json = parse_json(text);
  EXPECT_TRUE(json) << text;
  return from_json<T>(*json);
}

template <class T>
T good(std::string_view text) {
  Result<T> read = from_text<T>(text);
  EXPECT_TRUE(read) << text << ": " << (read ? "" : read.error().message());
  return read ? *read : T{};
}

template <class T>
std::string refusal(std::string_view text) {
  Result<T> read = from_text<T>(text);
  EXPECT_FALSE(read) << text;
  if (read) return {};
  EXPECT_EQ(read.error().code(), Errc::invalid_argument);
  return read.error().message();
}

// What was read is written as it was.
template <class T>
void expect_same(std::string_view text) {
  EXPECT_EQ(to_text(to_json(good<T>(text))), to_text(*parse_json(text)));
}

TEST(SchemaInput, Members) {
  const auto bitmap =
      good<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':65536,'persistent':true}");
  EXPECT_EQ(bitmap.node, "a");
  EXPECT_EQ(bitmap.granularity, 65536u);
  EXPECT_TRUE(bitmap.persistent);
  EXPECT_FALSE(bitmap.disabled);
  EXPECT_FALSE(good<BlockDirtyBitmapAdd>("{'node':'a','name':'b'}").granularity);
}

TEST(SchemaInput, InheritedMembersAndDefaults) {
  const auto backup = good<BlockdevBackup>(
      "{'device':'a','target':'b','sync':'full','x-perf':{'max-chunk':65536}}");
  EXPECT_EQ(backup.device, "a");
  EXPECT_EQ(backup.target, "b");
  EXPECT_EQ(backup.sync, MirrorSyncMode::full);
  EXPECT_EQ(backup.on_target_error, BlockdevOnError::report);
  EXPECT_TRUE(backup.auto_finalize);
  EXPECT_EQ(backup.x_perf->max_chunk, 65536);
  EXPECT_EQ(backup.x_perf->max_workers, 64);
}

TEST(SchemaInput, UnionsAndTypesThatHoldThemselves) {
  const auto node = good<BlockdevOptions>(
      "{'driver':'qcow2','node-name':'q','read-only':true,'backing':null,"
      " 'file':{'driver':'file','filename':'/a','aio':'io_uring'}}");
  EXPECT_EQ(node.driver, BlockdevDriver::qcow2);
  EXPECT_EQ(node.node_name, "q");
  const auto& qcow2 = std::get<BlockdevOptionsQcow2>(node.branch);
  EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(qcow2.backing->value));
  const auto& file = *std::get<Box<BlockdevOptions>>(qcow2.file.value);
  EXPECT_EQ(std::get<BlockdevOptionsFile>(file.branch).filename, "/a");
  const BlockdevOptions copy = node;
  EXPECT_EQ(to_json(copy), to_json(node));
}

TEST(SchemaInput, ReadsWhatItWrites) {
  expect_same<BlockdevOptions>(
      "{'driver':'copy-before-write','file':'a','target':'b','bitmap':{'node':'a','name':'m'}}");
  expect_same<BlockdevOptions>(
      "{'driver':'qcow2','node-name':'x','cache':{'direct':true},'file':'a','backing':'b'}");
  expect_same<BlockdevOptions>(
      "{'driver':'fault','file':'a','rules':[{'operation':'write-zeroes','errno':28}]}");
  expect_same<TransactionArguments>(
      "{'actions':[{'type':'abort','data':{}},{'type':'block-dirty-bitmap-merge',"
      "'data':{'node':'a','target':'t','bitmaps':['x',{'node':'b','name':'y'}]}}],'properties':{'"
      "completion-mode':'grouped'}}");
  expect_same<BlockExportOptions>(
      "{'type':'nbd','id':'e','node-name':'a','writable':true,'bitmaps':['b']}");
  expect_same<ImageInfo>(
      "{'filename':'a','format':'qcow2','virtual-size':1,'format-specific':{'type':'qcow2','data':"
      "{'compat':'1.1','refcount-bits':16,'compression-type':'zlib'}},'backing-image':{'filename':'"
      "b','format':'raw','virtual-size':2}}");
}

TEST(SchemaInput, WhatIsMissing) {
  EXPECT_EQ(refusal<BlockdevOptions>("{}"), "Parameter 'driver' is missing");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'file'}"), "Parameter 'filename' is missing");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'raw','file':{'driver':'file'}}"),
            "Parameter 'file.filename' is missing");
  EXPECT_EQ(refusal<TransactionArguments>("{'actions':[{'type':'abort'}]}"),
            "Parameter 'actions[0].data' is missing");
}

TEST(SchemaInput, WhatIsUnexpected) {
  EXPECT_EQ(refusal<Nothing>("{'x':1}"), "Parameter 'x' is unexpected");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'file','filename':'x','size':1}"),
            "Parameter 'size' is unexpected");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','cache':{'x':1}}"),
            "Parameter 'cache.x' is unexpected");
  EXPECT_EQ(refusal<TransactionArguments>("{'actions':[{'type':'abort','data':{'x':1}}]}"),
            "Parameter 'actions[0].data.x' is unexpected");
  EXPECT_EQ(refusal<BlockDirtyBitmapMerge>(
                "{'node':'a','target':'b','bitmaps':['x',{'node':'1','name':'x','z':1}]}"),
            "Parameter 'bitmaps[1].z' is unexpected");
}

TEST(SchemaInput, WhatHasTheWrongType) {
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':1}"),
            "Invalid parameter type for 'driver', expected: string");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'raw','file':{'driver':'file','filename':1}}"),
            "Invalid parameter type for 'file.filename', expected: string");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'raw','file':[]}"),
            "Invalid parameter type for 'file', expected: BlockdevRef");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'raw','file':null}"),
            "Invalid parameter type for 'file', expected: BlockdevRef");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','size':'1'}"),
            "Invalid parameter type for 'size', expected: integer");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','size':1.5}"),
            "Invalid parameter type for 'size', expected: integer");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','latency-ns':'x'}"),
            "Parameter 'latency-ns' expects uint64");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','read-zeroes':'on'}"),
            "Invalid parameter type for 'read-zeroes', expected: boolean");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','cache':1}"),
            "Invalid parameter type for 'cache', expected: object");
  EXPECT_EQ(refusal<TransactionArguments>("{'actions':1}"),
            "Invalid parameter type for 'actions', expected: array");
  EXPECT_EQ(refusal<TransactionArguments>("{'actions':[1]}"),
            "Invalid parameter type for 'actions[0]', expected: object");
}

TEST(SchemaInput, ValuesOutOfRange) {
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'zzz'}"),
            "Parameter 'driver' does not accept value 'zzz'");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'raw','file':{'driver':'zzz'}}"),
            "Parameter 'driver' does not accept value 'zzz'");
  EXPECT_EQ(refusal<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':4294967296}"),
            "Parameter 'granularity' expects uint32_t");
  EXPECT_EQ(refusal<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':'x'}"),
            "Parameter 'granularity' expects uint64");
  EXPECT_EQ(refusal<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':-1}"),
            "Parameter 'granularity' expects uint32_t");
  EXPECT_EQ(
      good<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':4294967295}").granularity,
      4294967295u);
}

TEST(SchemaInput, NegativeNumbersStandForLargeOnes) {
  constexpr std::uint64_t all_ones = ~std::uint64_t{0};
  const auto latency = [](const BlockdevOptions& node) { return std::get<BlockdevOptionsNull>(node.branch).latency_ns; };
  const auto size = [](const BlockdevOptions& node) { return std::uint64_t{std::get<BlockdevOptionsMemory>(node.branch).size}; };
  EXPECT_EQ(latency(good<BlockdevOptions>("{'driver':'null-co','latency-ns':-1}")), all_ones);
  EXPECT_EQ(latency(good<BlockdevOptions>("{'driver':'null-co','latency-ns':18446744073709551615}")), all_ones);
  EXPECT_EQ(size(good<BlockdevOptions>("{'driver':'memory','size':-9223372036854775808}")), std::uint64_t{1} << 63);
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','latency-ns':18446744073709551616}"), "Parameter 'latency-ns' expects uint64");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','latency-ns':-9223372036854775809}"), "Parameter 'latency-ns' expects uint64");
  // What is narrower takes none, nor any that does not fit; a signed one is itself.
  EXPECT_EQ(refusal<BlockDirtyBitmapAdd>("{'node':'a','name':'b','granularity':18446744073709551615}"),
            "Parameter 'granularity' expects uint32_t");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'null-co','size':18446744073709551615}"),
            "Invalid parameter type for 'size', expected: integer");
}

// As QEMU's: the way to it is not told.
TEST(SchemaInput, SomeMistakesAreToldByTheLastNameAlone) {
  const std::string add = "{'actions':[{'type':'block-dirty-bitmap-add','data':{'node':'a','name':'b','granularity':";
  EXPECT_EQ(refusal<TransactionArguments>(add + "-1}}]}"), "Parameter 'granularity' expects uint32_t");
  EXPECT_EQ(refusal<TransactionArguments>(add + "'x'}}]}"), "Parameter 'actions[0].data.granularity' expects uint64");
  EXPECT_EQ(refusal<BlockdevOptions>("{'driver':'qcow2','file':'a','backing':{'driver':'raw','file':1}}"),
            "Invalid parameter type for 'file', expected: BlockdevRef");
  EXPECT_EQ(refusal<BlockDirtyBitmapMerge>("{'node':'a','target':'b','bitmaps':['x',1]}"),
            "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr");
  EXPECT_EQ(refusal<QmpCapabilitiesArguments>("{'enable':['x']}"), "Parameter 'null' does not accept value 'x'");
}

TEST(SchemaInput, TheFirstMistakeInTheSchemasOrderIsTold) {
  EXPECT_EQ(refusal<BlockdevOptions>("{'foo':1,'filename':2,'driver':'file'}"),
            "Invalid parameter type for 'filename', expected: string");
}

TEST(SchemaInput, DeepInputEndsWithoutHarm) {
  std::string text, end;
  for (int i = 0; i < 1000; ++i) {
    text += "{'driver':'raw','file':";
    end += "}";
  }
  EXPECT_EQ(refusal<BlockdevOptions>(text + "1" + end), "Invalid parameter type for 'file', expected: BlockdevRef");
  EXPECT_EQ(refusal<BlockdevOptions>(text + "{'driver':'file','filename':1}" + end).substr(0, 46),
            "Invalid parameter type for 'file.file.file.fil");
  good<BlockdevOptions>(text + "'a'" + end);
}

TEST(SchemaDescription, CommandsAreFoundAndTheirArgumentsNormalised) {
  ASSERT_NE(find_command("block-dirty-bitmap-add"), nullptr);
  EXPECT_EQ(find_command("nope"), nullptr);
  EXPECT_TRUE(find_command("drive-backup")->deprecated);
  EXPECT_TRUE(find_command("x-debug-block-dirty-bitmap-sha256")->unstable);
  EXPECT_EQ(find_command("query-jobs")->summary, "Lists all jobs.");
  const Json words =
      Json::object({{"node", "a"}, {"name", "b"}, {"granularity", "65536"}, {"disabled", "on"}});
  const Result<Json> json =
      find_command("block-dirty-bitmap-add")->normalise(words, Spelling::keyval);
  ASSERT_TRUE(json);
  EXPECT_EQ(to_text(*json),
            R"({"node": "a", "name": "b", "granularity": 65536, "disabled": true})");
  EXPECT_FALSE(find_command("block-dirty-bitmap-add")->normalise(words, Spelling::json));
  for (const CommandDescription& command : all_commands()) {
    EXPECT_EQ(find_command(command.name), &command);
    EXPECT_TRUE(command.summary.ends_with('.')) << command.name;
  }
}

}  // namespace
}  // namespace tidemark::schema
