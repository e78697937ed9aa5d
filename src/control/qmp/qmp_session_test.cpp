// Conversations, over sockets of the simulation (in pieces, in virtual time) and real ones.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "control/qmp/qmp_client.hpp"
#include "control/qmp/qmp_server.hpp"
#include "control/qmp/self_commands.hpp"
#include "io/sim/backend.hpp"
#include "io/threads/threads_backend.hpp"
#include "schema/job.hpp"
#include "task/finally.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;
using Lines = std::vector<std::string>;

struct Ping {
  std::string text;
};
void read_members(schema::Members& in, Ping& out) { in.required("text", out.text); }

// Commands of these tests.
class Pings {
 public:
  explicit Pings(Reactor& reactor) : reactor_(reactor) {}
  Task<std::string> ping(Ping arguments) {
    ++begun;
    co_await reactor_.sleep(1ms);
    ++ended;
    if (arguments.text == "fail") co_await Error(Errc::device_not_active, "asked to");
    co_return arguments.text;
  }
  Task<Json> flood() {
    ++floods;
    co_return Json(std::string(300'000, 'x'));
  }

  int begun = 0, ended = 0, floods = 0;

 private:
  Reactor& reactor_;
};

QmpOptions small_options() {
  QmpOptions options;
  options.version = qmp_version("test");
  options.unread_pause = 200'000;
  options.events_max = 1'000'000;
  return options;
}

// A server with its listener, in the reactor of its clients.
class World {
 public:
  World(IoBackend& io, std::string path)
      : reactor(io), pings(reactor), server(reactor, table, small_options()) {
    address.path = std::move(path);
    table.add("ping", pings, &Pings::ping);
    table.add("flood", pings, &Pings::flood);
    table.add("quit", static_cast<ControlCommands&>(self), &ControlCommands::quit);
    table.add("query-commands", static_cast<ControlCommands&>(self),
              &ControlCommands::query_commands);
    table.add("query-qmp-schema", static_cast<IntrospectCommands&>(self),
              &IntrospectCommands::query_qmp_schema);
  }

  // Runs `client` (a callable that returns Task<>) beside the server.
  template <class Client>
  void run(Client client) {
    Result<> outcome = reactor.run(run_beside(client));
    EXPECT_TRUE(outcome) << outcome.error().message();
    EXPECT_EQ(server.sessions(), 0u);
  }

  void end() {
    closing.request();
    server.stop();
    server.end();
  }

  Reactor reactor;
  SocketAddress address;
  CommandTable table;
  Pings pings;
  SelfCommands self{qmp_version("test"), [this] { end(); }};
  QmpServer server;
  CancelSource closing;

 private:
  template <class Client>
  Task<> run_beside(Client& client) {
    Listener listener = co_await Listener::listen(reactor, address);
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(server.listen(listener, false, closing.token()));
      Result<> done = co_await client().result();
      end();
      co_await group.join();
      if (!done) co_await done.error();
    };
    Result<> outcome = co_await with_group(reactor, both).result();
    co_await listener.close();
    if (!outcome) co_await outcome.error();
  }
};

// A socket that is read by lines.
class LineSocket {
 public:
  LineSocket(World& world, SocketAddress address) : world_(world), address_(std::move(address)) {}

  // Runs talk(*this) on a connection.
  template <class Talk>
  Task<> connected(Talk talk) {
    socket_ = co_await Socket::connect(world_.reactor, address_);
    auto close = [this] { return socket_.close(); };
    co_await finally(talk(*this), close);
  }
  Task<> send(std::string text) { co_await socket_.send_all(Buffers::of_const(as_bytes(text))); }
  // The next line; "" at the end of the stream.
  Task<std::string> line() {
    std::size_t end;
    while ((end = text_.find("\r\n")) == std::string::npos) {
      std::array<std::byte, 4096> buffer;
      const MutableBytes bytes(buffer);
      const std::size_t n = co_await socket_.recv_some(bytes);
      if (n == 0) co_return "";
      text_ += as_text(bytes.first(n));
    }
    std::string line = text_.substr(0, end);
    text_.erase(0, end + 2);
    co_return line;
  }

 private:
  World& world_;
  SocketAddress address_;
  Socket socket_;
  std::string text_;
};

// Sends a text, and reads until so many lines have come after the greeting, or the stream has
// ended.
class RawClient {
 public:
  RawClient(World& world, std::string text, std::size_t answers)
      : socket_(world, world.address), text_(std::move(text)), answers_(answers) {}
  Task<> operator()() {
    return socket_.connected([this](LineSocket&) { return talk(); });
  }
  Lines lines;
  bool closed = false;

 private:
  Task<> talk() {
    co_await socket_.send(text_);
    while (lines.size() < answers_ + 1) {
      std::string line = co_await socket_.line();
      if (line.empty()) {
        closed = true;
        co_return;
      }
      lines.push_back(std::move(line));
    }
  }
  LineSocket socket_;
  std::string text_;
  std::size_t answers_;
};

class QmpSessionTest : public testing::TestWithParam<std::uint64_t> {
 protected:
  // The answers to `text`, without the greeting.
  Lines answers(std::string text, std::size_t count) {
    RawClient client(world, std::move(text), count);
    world.run([&client] { return client(); });
    EXPECT_FALSE(client.lines.empty());
    EXPECT_EQ(client.lines.size(), count + 1);
    if (!client.lines.empty()) client.lines.erase(client.lines.begin());
    return client.lines;
  }
  static constexpr const char* hello = "{'execute':'qmp_capabilities'}";

  Task<> negotiated(LineSocket& socket) {
    co_await socket.send(hello);
    (void)co_await socket.line();
    (void)co_await socket.line();
  }
  void emit(int i, std::string padding = "") {
    schema::JobStatusChangeEvent event;
    event.id = std::to_string(i) + padding;
    world.server.EventSink::send(event);
  }
  template <class Use>
  Task<> with_client(Use use) {
    QmpClient client = co_await QmpClient::connect(world.reactor, world.address);
    auto close = [&client] { return client.close(); };
    co_await finally(use(client), close);
  }

  SimWorld machine{GetParam()};
  SimBackend io{machine};
  World world{io, "/qmp"};
};

INSTANTIATE_TEST_SUITE_P(Seeds, QmpSessionTest, testing::Range<std::uint64_t>(1, 6));

TEST_P(QmpSessionTest, GreetsAndNegotiates) {
  RawClient client(
      world,
      "{'execute':'ping','id':1} {'execute':'qmp_capabilities','arguments':{'enable':['oob']}}"
      "{'execute':'qmp_capabilities','arguments':{'x':1}} {'execute':'qmp_capabilities'}"
      "{'execute':'qmp_capabilities'}",
      5);
  world.run([&client] { return client(); });
  ASSERT_EQ(client.lines.size(), 6u);
  EXPECT_EQ(client.lines[0],
            R"({"QMP": {"version": {"qemu": {"major": 11, "minor": 0, "micro": 0}, )"
            R"("package": "tidemark test"}, "capabilities": []}})");
  EXPECT_EQ(client.lines[1],
            R"({"id": 1, "error": {"class": "CommandNotFound", )"
            R"("desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}})");
  EXPECT_EQ(client.lines[2],
            R"({"error": {"class": "GenericError", "desc": "Capability oob not available"}})");
  EXPECT_EQ(client.lines[3],
            R"({"error": {"class": "GenericError", "desc": "Parameter 'x' is unexpected"}})");
  EXPECT_EQ(client.lines[4], R"({"return": {}})");
  EXPECT_EQ(client.lines[5],
            R"({"error": {"class": "CommandNotFound", )"
            R"("desc": "Capabilities negotiation is already complete, command ignored"}})");
}

TEST_P(QmpSessionTest, PipelinedCommandsAreAnsweredInOrder) {
  std::string text = hello;
  Lines expected = {R"({"return": {}})"};
  for (int i = 0; i < 100; ++i) {
    const std::string n = std::to_string(i);
    text += "{'execute':'ping','arguments':{'text':'" + n + "'},'id':" + n + "}";
    expected.push_back("{\"return\": \"" + n + "\", \"id\": " + n + "}");
  }
  EXPECT_EQ(answers(text, 101), expected);
}

TEST_P(QmpSessionTest, Errors) {
  const Lines seen = answers(
      std::string(hello) +
          "{'execute':'ping','arguments':{'text':'fail'}} {'execute':'nope'}"
          "{'execute':'ping'} [1] {'execute' 1} \xff{'execute':'ping','arguments':{'text':'x'}}",
      7);
  EXPECT_EQ(seen[1], R"({"error": {"class": "DeviceNotActive", "desc": "asked to"}})");
  EXPECT_EQ(
      seen[2],
      R"({"error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}})");
  EXPECT_EQ(seen[3],
            R"({"error": {"class": "GenericError", "desc": "Parameter 'text' is missing"}})");
  EXPECT_EQ(seen[4],
            R"({"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}})");
  EXPECT_NE(seen[5].find("JSON parse error"), std::string::npos);
  EXPECT_NE(seen[6].find("stray byte 0xff"), std::string::npos);
}

TEST_P(QmpSessionTest, CommandsAndSchemaAreListed) {
  const Lines seen =
      answers(std::string(hello) + "{'execute':'query-commands'}{'execute':'query-qmp-schema'}", 3);
  EXPECT_NE(seen[1].find(R"({"name": "qmp_capabilities"})"), std::string::npos);
  EXPECT_NE(seen[2].find(R"("name": "blockdev-backup")"), std::string::npos);
}

TEST_P(QmpSessionTest, QuitIsAnsweredAndEndsTheSession) {
  RawClient client(world, std::string(hello) + "{'execute':'quit'}", 9);
  world.run([&client] { return client(); });
  EXPECT_TRUE(client.closed);
  EXPECT_EQ(client.lines.size(), 3u) << "the greeting and two answers";
}

TEST_P(QmpSessionTest, StoppedItTakesNoCommandsAndStillTellsWhatHappens) {
  auto talk = [&](LineSocket& socket) -> Task<> {
    co_await negotiated(socket);
    co_await socket.send("{'execute':'ping','arguments':{'text':'x'}}");
    while (world.pings.begun == 0) co_await world.reactor.yield();
    world.server.stop();
    co_await socket.send("{'execute':'ping','arguments':{'text':'y'}}");
    EXPECT_NE((co_await socket.line()).find(R"("return": "x")"), std::string::npos);
    for (int i = 0; i < 3; ++i) {
      co_await world.reactor.sleep(1s);
      emit(i);
      EXPECT_NE((co_await socket.line()).find("JOB_STATUS_CHANGE"), std::string::npos);
    }
    world.server.end();
    const Result<std::string> last = co_await socket.line().result();
    EXPECT_TRUE(!last || last->empty()) << "reset, for what was not read, or ended";
    EXPECT_EQ(world.pings.begun, 1);
  };
  LineSocket socket(world, world.address);
  world.run([&] { return socket.connected(talk); });
}

TEST_P(QmpSessionTest, AClientThatLeavesDuringACommandLeavesNothingBehind) {
  RawClient client(world, std::string(hello) + "{'execute':'ping','arguments':{'text':'x'}}", 1);
  world.run([&client] { return client(); });
  EXPECT_EQ(world.pings.begun, world.pings.ended);
}

TEST_P(QmpSessionTest, EventsReachAllWhoHaveNegotiatedInOrder) {
  auto check = [](QmpClient& client) -> Task<> {
    for (int i = 0; i < 3; ++i) {
      const Json event = co_await client.next_event();
      EXPECT_EQ(event.find("event")->as_string(), "JOB_STATUS_CHANGE");
      EXPECT_EQ(event.find("data")->find("id")->as_string(), std::to_string(i));
      EXPECT_TRUE(event.find("timestamp")->find("microseconds")->is_int());
    }
  };
  auto with_two = [&](QmpClient& one, QmpClient& other) -> Task<> {
    for (int i = 0; i < 3; ++i) emit(i);
    co_await check(one);
    co_await check(other);
  };
  auto with_one = [&](QmpClient& one) -> Task<> {
    auto use = [&](QmpClient& other) { return with_two(one, other); };
    co_await with_client(use);
  };
  auto greeted_only = [&](LineSocket& silent) -> Task<> {
    EXPECT_NE((co_await silent.line()).find("QMP"), std::string::npos);
    co_await with_client(with_one);
    co_await silent.send("{}");
    EXPECT_NE((co_await silent.line()).find("lacks member"), std::string::npos);
  };
  LineSocket silent(world, world.address);
  world.run([&] { return silent.connected(greeted_only); });
}

TEST_P(QmpSessionTest, WhoDoesNotReadEventsIsDisconnectedAndHoldsUpNobody) {
  auto work = [&](QmpClient& client) -> Task<> {
    const Json arguments = Json::object({{"text", "x"}});
    int events = 0;
    for (; world.server.sessions() > 1 && events < 10'000; ++events) {
      emit(events, std::string(10'000, '.'));
      co_await client.execute("ping", arguments);
    }
    EXPECT_EQ(world.server.sessions(), 1u) << "the other one is gone";
    EXPECT_LT(events, 200) << "after its bound";
    for (int i = 0; i < events; ++i) co_await client.next_event();
    co_await client.execute("ping", arguments);
  };
  auto silent = [&](LineSocket& socket) -> Task<> {
    co_await negotiated(socket);
    co_await with_client(work);
  };
  LineSocket socket(world, world.address);
  world.run([&] { return socket.connected(silent); });
}

TEST_P(QmpSessionTest, EventsDuringALongAnswerDisconnectNobody) {
  auto patient = [&](LineSocket& socket) -> Task<> {
    co_await negotiated(socket);
    const std::string text(2'000'000, 'x');
    const std::string request = "{'execute':'ping','arguments':{'text':'" + text + "'}}";
    co_await socket.send(request);
    for (int i = 0; i < 5; ++i) {
      co_await world.reactor.sleep(1s);
      emit(i);
    }
    EXPECT_GT((co_await socket.line()).size(), text.size());
    for (int i = 0; i < 5; ++i) EXPECT_NE((co_await socket.line()).find("JOB_STATUS_CHANGE"), std::string::npos);
  };
  LineSocket socket(world, world.address);
  world.run([&] { return socket.connected(patient); });
}

TEST_P(QmpSessionTest, WhoDoesNotReadAnswersGetsNoMore) {
  constexpr int commands = 20;
  auto greedy = [&](LineSocket& socket) -> Task<> {
    co_await negotiated(socket);
    std::string text;
    for (int i = 0; i < commands; ++i) text += "{'execute':'flood'}";
    co_await socket.send(text);
    co_await world.reactor.sleep(60s);
    EXPECT_LE(world.pings.floods, 3);
    for (int i = 0; i < commands; ++i) EXPECT_GT((co_await socket.line()).size(), 300'000u);
  };
  LineSocket socket(world, world.address);
  world.run([&] { return socket.connected(greedy); });
  EXPECT_EQ(world.pings.floods, commands);
}

TEST_P(QmpSessionTest, AnswersNobodyReadsEndWithTheFarewell) {
  auto leave = [&](LineSocket& socket) -> Task<> {
    co_await negotiated(socket);
    co_await socket.send("{'execute':'flood'}{'execute':'flood'}");
    co_await world.reactor.sleep(1s);
    world.end();
    const Instant asked = world.reactor.now();
    while (world.server.sessions() != 0) co_await world.reactor.sleep(1s);
    EXPECT_LE(world.reactor.now() - asked, 7s);
  };
  LineSocket socket(world, world.address);
  world.run([&] { return socket.connected(leave); });
}

TEST_P(QmpSessionTest, TheClientTellsWhatDoesNotSpeakQmp) {
  SocketAddress elsewhere;
  elsewhere.path = "/elsewhere";
  auto speak = [&](Listener& listener, std::string text) -> Task<> {
    Socket socket = co_await listener.accept();
    (void)co_await socket.send_all(Buffers::of_const(as_bytes(text))).result();
    std::array<std::byte, 100> buffer;
    const MutableBytes bytes(buffer);
    if (!text.empty()) (void)co_await socket.recv_some(bytes).result();
    (void)co_await socket.send_all(Buffers::of_const(as_bytes(text))).result();
    co_await socket.close();
  };
  auto talk_to = [&](Listener& listener, std::string text) -> Task<> {
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(speak(listener, text));
      Result<QmpClient> client = co_await QmpClient::connect(world.reactor, elsewhere).result();
      EXPECT_FALSE(client) << text;
      EXPECT_TRUE(!client && client.error().message().find("/elsewhere") != std::string::npos);
    };
    co_await with_group(world.reactor, both);
  };
  auto all = [&]() -> Task<> {
    Listener listener = co_await Listener::listen(world.reactor, elsewhere);
    for (const char* text :
         {"1\n", "[]", "{}", "{'QMP':{}}", "{'QMP':{}}[1]", "{'error':1}", "\xff", ""})
      co_await talk_to(listener, text);
    co_await listener.close();
  };
  world.run([&] { return all(); });
}

// The same on the operating system's sockets.
TEST(QmpOnRealSockets, PipelinedCommandsAndAClient) {
  const std::string path =
      std::filesystem::temp_directory_path() / ("qmp-" + std::to_string(::getpid()) + ".sock");
  const std::unique_ptr<IoBackend> io = *make_threads_backend();
  World world(*io, path);
  auto converse = [&]() -> Task<> {
    QmpClient client = co_await QmpClient::connect(world.reactor, world.address);
    auto use = [&]() -> Task<> {
      const Json arguments = Json::object({{"text", "x"}});
      for (int i = 0; i < 50; ++i) EXPECT_EQ(co_await client.execute("ping", arguments), Json("x"));
      const Json flood = co_await client.execute("flood");
      EXPECT_EQ(flood.as_string().size(), 300'000u);
      Result<Json> refused = co_await client.execute("nope").result();
      EXPECT_TRUE(!refused && refused.error().code() == Errc::command_not_found);
    };
    auto close = [&client] { return client.close(); };
    co_await finally(use(), close);
  };
  world.run([&] { return converse(); });
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace tidemark
