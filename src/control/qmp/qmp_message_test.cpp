// What a request must look like.  The messages are those of QEMU's storage daemon.
#include "control/qmp/qmp_message.hpp"

#include <gtest/gtest.h>

namespace tidemark {
namespace {

std::string refusal(std::string_view text) {
  QmpRequest request;
  const Result<> read = read_request(*parse_json(text), request);
  return read ? "taken" : read.error().message();
}

TEST(QmpMessage, Requests) {
  QmpRequest request;
  ASSERT_TRUE(read_request(*parse_json("{'id':[1],'arguments':{'a':1},'execute':'x'}"), request));
  EXPECT_EQ(request.command, "x");
  EXPECT_EQ(to_text(request.arguments), R"({"a": 1})");
  EXPECT_EQ(to_text(*request.id), "[1]");
}

TEST(QmpMessage, RefusedRequests) {
  EXPECT_EQ(refusal("1"), "QMP input must be a JSON object");
  EXPECT_EQ(refusal("[]"), "QMP input must be a JSON object");
  EXPECT_EQ(refusal("{}"), "QMP input lacks member 'execute'");
  EXPECT_EQ(refusal("{'execute':1}"), "QMP input member 'execute' must be a string");
  EXPECT_EQ(refusal("{'execute':'x','arguments':[]}"),
            "QMP input member 'arguments' must be an object");
  EXPECT_EQ(refusal("{'execute':'x','foo':1}"), "QMP input member 'foo' is unexpected");
  EXPECT_EQ(refusal("{'exec-oob':'x'}"), "QMP input member 'exec-oob' is unexpected");
}

TEST(QmpMessage, TheIdIsKeptWhenTheRestIsWrong) {
  QmpRequest request;
  ASSERT_FALSE(read_request(*parse_json("{'foo':1,'id':7}"), request));
  EXPECT_EQ(request.id, Json(7));
}

TEST(QmpMessage, Answers) {
  EXPECT_EQ(to_text(qmp_return(Json::object(), {})), R"({"return": {}})");
  EXPECT_EQ(to_text(qmp_return(1, Json("i"))), R"({"return": 1, "id": "i"})");
  EXPECT_EQ(to_text(qmp_error(Error(Errc::busy, "no"), Json())),
            R"({"id": null, "error": {"class": "GenericError", "desc": "no"}})");
  EXPECT_EQ(qmp_error_class(Errc::command_not_found), "CommandNotFound");
  EXPECT_EQ(qmp_error_class(Errc::device_not_found), "DeviceNotFound");
  EXPECT_EQ(qmp_error_class(Errc::device_not_active), "DeviceNotActive");
}

TEST(QmpMessage, Events) {
  EXPECT_EQ(
      to_text(qmp_event("E", Json::object({{"a", 1}}), 1'500'000'123'456'789)),
      R"({"timestamp": {"seconds": 1500000, "microseconds": 123456}, "event": "E", "data": {"a": 1}})");
  EXPECT_EQ(qmp_event("E", Json::object(), 0).find("data"), nullptr);
}

TEST(QmpMessage, Greeting) {
  schema::VersionInfo version;
  version.qemu = {1, 2, 3};
  version.package = "p";
  EXPECT_EQ(
      to_text(qmp_greeting(version)),
      R"({"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}, "package": "p"}, "capabilities": []}})");
}

}  // namespace
}  // namespace tidemark
