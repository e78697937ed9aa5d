// A load for NBD servers that costs little itself, so that what is measured is the server.
//
//   nbd_load SOCKET EXPORT read|write|randread|randwrite|zipfwrite SIZE DEPTH SECONDS [SPAN [RATE]]
//
// Keeps DEPTH requests of SIZE bytes in flight over a unix socket for SECONDS after a short start, within
// the first SPAN bytes of the export (0: all), and prints one JSON object ("operations": with those of the
// start; "granules": stretches of 64 KiB that were ever written to).  With `-` for SECONDS it does so for each
// line of standard input, which has the seconds, and goes on each time where it was.  Places are the same in
// every run; zipfwrite's are as of fio's random_distribution=zipf:1.1: the popular ones lie strewn over the span.
//
// SIGTERM ends the time.  With a RATE, requests are due so many times a second whatever the server
// does, at most DEPTH in flight; times count from when a request was due, to the end for those that are not
// done by then, so a server that stalls cannot hide it ("share": of what was due, what was done in time).
// Simple replies; blocking system calls; all requests that one turn makes possible go out with one of them.

#include <fmt/format.h>

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.hpp"
#include "nbd/option.hpp"
#include "nbd/transmission.hpp"

namespace {

using namespace tidemark;
using Clock = std::chrono::steady_clock;

volatile std::sig_atomic_t told_to_end = 0;

[[noreturn]] void fail(const std::string& why) {
  fmt::print(stderr, "nbd_load: {}\n", why);
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) fail(result.error().message());
  return *std::move(result);
}

class Connection {
 public:
  explicit Connection(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) fail("the socket's name is too long");
    std::copy(path.begin(), path.end(), address.sun_path);
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      fail("cannot connect to " + path);
  }
  Connection(const Connection&) = delete;
  ~Connection() { ::close(fd_); }

  void send(std::vector<iovec>& parts) {
    for (std::size_t first = 0; first < parts.size();) {
      msghdr message{};
      message.msg_iov = &parts[first];
      message.msg_iovlen = std::min<std::size_t>(parts.size() - first, 1024);
      ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
      if (sent <= 0) fail("the server hung up");
      for (; first < parts.size() && static_cast<std::size_t>(sent) >= parts[first].iov_len; ++first)
        sent -= static_cast<ssize_t>(parts[first].iov_len);
      if (sent == 0) continue;
      parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + sent;
      parts[first].iov_len -= static_cast<std::size_t>(sent);
    }
  }
  void send(std::vector<std::byte> message) {
    std::vector<iovec> parts{{message.data(), message.size()}};
    send(parts);
  }
  std::size_t receive(MutableBytes into) {
    const ssize_t got = ::recv(fd_, into.data(), into.size(), 0);
    if (got <= 0) fail("the server hung up");
    return static_cast<std::size_t>(got);
  }
  // Until there is something to receive, or `until`.
  bool readable(Clock::time_point until) {
    const auto left = std::max(until - Clock::now(), Clock::duration::zero());
    const timespec limit{left / std::chrono::seconds(1), (left % std::chrono::seconds(1)).count()};
    pollfd wanted{fd_, POLLIN, 0};
    return ::ppoll(&wanted, 1, &limit, nullptr) > 0;
  }
  std::vector<std::byte> receive_exactly(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::size_t at = 0; at < count;) at += receive(std::span(bytes).subspan(at));
    return bytes;
  }

 private:
  int fd_;
};

// The export's size; simple replies are agreed on.
std::uint64_t negotiate(Connection& connection, const std::string& name) {
  (void)must(nbd::decode_greeting(connection.receive_exactly(nbd::greeting_size)));
  nbd::Message message(nbd::client_flags_size);
  store_be<std::uint32_t>(message.data(), nbd::client_flag::fixed_newstyle | nbd::client_flag::no_zeroes);
  nbd::Message data;
  nbd::encode_info_request(data, {name, {}});
  nbd::encode_option_header(message, {nbd::Option::go, static_cast<std::uint32_t>(data.size())});
  message.insert(message.end(), data.begin(), data.end());
  connection.send(std::move(message));
  for (std::uint64_t size = 0;;) {
    const auto bytes = connection.receive_exactly(nbd::option_reply_header_size);
    const auto header = must(nbd::decode_option_reply_header(bytes));
    const auto payload = connection.receive_exactly(header.length);
    if (nbd::is_error(header.type)) fail("the server refuses export '" + name + "'");
    if (header.type == nbd::OptionReply::ack) return size;
    if (header.type != nbd::OptionReply::info) continue;
    const auto info = must(nbd::decode_info_reply(payload));
    if (info.kind == nbd::Info::export_) size = info.export_info.size;
  }
}

// Ranks from 1 on, r as often as r^-1.1: rejection-inversion (Hörmann and Derflinger 1996).
class Zipf {
 public:
  explicit Zipf(std::uint64_t ranks) : ranks_(static_cast<double>(ranks)), low_(area(1.5) - 1), high_(area(ranks_ + 0.5)) {}

  std::uint64_t operator()(Prng& random) const {
    for (;;) {
      const double u = high_ + unit(random) * (low_ - high_);
      const double x = std::pow(1 - u * slope, -1 / slope);
      const double rank = std::clamp(std::round(x), 1.0, ranks_);
      if (u >= area(rank + 0.5) - std::pow(rank, -theta)) return static_cast<std::uint64_t>(rank);
    }
  }

 private:
  static constexpr double theta = 1.1, slope = theta - 1;
  static double area(double x) { return (1 - std::pow(x, -slope)) / slope; }
  static double unit(Prng& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

  double ranks_, low_, high_;
};

std::uint64_t strew(std::uint64_t rank) {
  rank = (rank ^ (rank >> 30)) * 0xbf58476d1ce4e5b9;
  rank = (rank ^ (rank >> 27)) * 0x94d049bb133111eb;
  return rank ^ (rank >> 31);
}

struct Plan {
  bool write = false, random = false, zipf = false;
  std::uint64_t size = 0, depth = 0, span = 0;
  double rate = 0;
};

class Load {
 public:
  Load(Connection& connection, Plan plan)
      : connection_(connection), plan_(plan), zipf_(plan.span / plan.size), begun_(plan.depth),
        headers_(plan.depth * request_bytes), payload_(plan.size + payload_slack), buffer_(256 * KiB),
        written_(plan.span / granule + 1) {
    for (std::byte& byte : payload_) byte = static_cast<std::byte>(random_() | 1);
  }

  void run(double seconds) {
    all_ = operations_ = 0;
    waits_us_.clear();
    parts_.clear();
    free_.clear();
    if (plan_.rate > 0) run_by_schedule(seconds);
    else run_closed(seconds);
    rate_ = static_cast<double>(operations_) / seconds_;
    while (in_flight_ > 0) take_replies(false);
  }

  std::string report() {
    std::sort(waits_us_.begin(), waits_us_.end());
    auto percentile = [&](double p) {
      return waits_us_.empty() ? 0 : waits_us_[static_cast<std::size_t>(p * static_cast<double>(waits_us_.size() - 1))];
    };
    return fmt::format(R"({{"per-second": {:.1f}, "operations": {}, "p50-us": {:.1f}, "p99-us": {:.1f}, "share": {:.4f}, "granules": {}}})",
                       rate_, all_, percentile(0.5), percentile(0.99), share_, granules_);
  }

 private:
  static constexpr std::size_t request_bytes = nbd::request_size(nbd::Headers::simple);
  static constexpr std::size_t payload_slack = 64 * KiB;
  static constexpr std::uint64_t granule = 64 * KiB;

  std::uint64_t next_offset() {
    const std::uint64_t places = plan_.span / plan_.size;
    if (plan_.zipf) return strew(zipf_(random_)) % places * plan_.size;
    return (plan_.random ? random_.below(places) : next_++ % places) * plan_.size;
  }

  void run_closed(double seconds) {
    for (std::uint64_t slot = 0; slot < plan_.depth; ++slot) issue(slot, Clock::now());
    connection_.send(parts_);
    run_for(std::min(0.3, seconds / 4));
    operations_ = 0;
    waits_us_.clear();
    run_for(seconds);
  }

  // Request n is due n / rate after the start.
  void run_by_schedule(double seconds) {
    for (std::uint64_t slot = 0; slot < plan_.depth; ++slot) free_.push_back(slot);
    const auto start = Clock::now();
    const auto after = [&](double s) { return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s)); };
    const auto end = after(seconds);
    std::uint64_t next = 0;
    const auto due = [&](std::uint64_t n) { return after(static_cast<double>(n) / plan_.rate); };
    for (auto now = start; now < end && !told_to_end; now = Clock::now()) {
      parts_.clear();
      for (; due(next) <= now && !free_.empty(); ++next) {
        issue(free_.back(), due(next));
        free_.pop_back();
      }
      if (!parts_.empty()) connection_.send(parts_);
      if (connection_.readable(free_.empty() ? end : std::min(end, due(next)))) take_replies(false);
    }
    seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    const std::uint64_t done = operations_;
    for (std::uint64_t slot = 0; slot < plan_.depth; ++slot)
      if (std::find(free_.begin(), free_.end(), slot) == free_.end()) note_wait(begun_[slot]);
    for (; due(next) < end && due(next) < Clock::now(); ++next) note_wait(due(next));
    share_ = static_cast<double>(done) / static_cast<double>(next);
  }

  void note_wait(Clock::time_point since) {
    waits_us_.push_back(std::chrono::duration<float, std::micro>(Clock::now() - since).count());
  }

  void issue(std::uint64_t slot, Clock::time_point due) {
    begun_[slot] = due;
    std::byte* header = &headers_[slot * request_bytes];
    nbd::Request request;
    request.command = plan_.write ? nbd::Command::write : nbd::Command::read;
    request.cookie = slot;
    request.offset = next_offset();
    request.length = plan_.size;
    if (plan_.write) count_granules(request.offset);
    nbd::encode_request(header, nbd::Headers::simple, request);
    parts_.push_back({header, request_bytes});
    if (plan_.write) parts_.push_back({&payload_[random_.below(payload_slack)], plan_.size});
    ++in_flight_;
  }

  void count_granules(std::uint64_t offset) {
    for (std::uint64_t at = offset / granule; at * granule < offset + plan_.size; ++at) {
      granules_ += !written_[at];
      written_[at] = true;
    }
  }

  void run_for(double seconds) {
    const auto start = Clock::now();
    const auto end = start + std::chrono::duration<double>(seconds);
    while (Clock::now() < end && !told_to_end) take_replies(true);
    seconds_ = std::chrono::duration<double>(Clock::now() - start).count();
  }

  // What one system call brings: replies, and parts of them.
  void take_replies(bool go_on) {
    const std::size_t got = connection_.receive(std::span(buffer_));
    parts_.clear();
    for (std::size_t at = 0; at < got;) {
      const std::size_t skipped = std::min(got - at, to_skip_);
      to_skip_ -= skipped;
      at += skipped;
      const std::size_t taken = std::min(got - at, sizeof reply_ - reply_size_);
      std::copy_n(&buffer_[at], taken, reply_ + reply_size_);
      at += taken;
      if ((reply_size_ += taken) < sizeof reply_) continue;
      reply_size_ = 0;
      finish(nbd::decode_reply_header(reply_), go_on);
    }
    if (!parts_.empty()) connection_.send(parts_);
  }

  void finish(const nbd::ReplyHeader& reply, bool go_on) {
    if (!reply.simple || reply.error != 0) fail(fmt::format("a request failed with error {}", reply.error));
    if (!plan_.write) to_skip_ = plan_.size;
    --in_flight_;
    ++operations_;
    ++all_;
    const std::uint64_t slot = reply.chunk.cookie;
    note_wait(begun_.at(slot));
    if (go_on) issue(slot, Clock::now());
    else free_.push_back(slot);
  }

  Connection& connection_;
  const Plan plan_;
  const Zipf zipf_;
  Prng random_{1};
  std::vector<Clock::time_point> begun_;
  std::vector<std::byte> headers_, payload_, buffer_;
  std::vector<iovec> parts_;
  std::vector<std::uint64_t> free_;            // slots with no request in flight, while requests go by schedule
  std::vector<float> waits_us_;
  std::vector<bool> written_;
  std::uint64_t granules_ = 0;
  std::byte reply_[nbd::simple_reply_size];
  std::size_t reply_size_ = 0, to_skip_ = 0;
  std::uint64_t next_ = 0, in_flight_ = 0, operations_ = 0, all_ = 0;
  double seconds_ = 0, rate_ = 0, share_ = 1;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7 || argc > 9)
    fail("usage: nbd_load SOCKET EXPORT read|write|randread|randwrite|zipfwrite SIZE DEPTH SECONDS [SPAN [RATE]]");
  std::signal(SIGTERM, [](int) { told_to_end = 1; });
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);      // by default requests would be up to 50 µs late
  Connection connection(argv[1]);
  const std::uint64_t disk = negotiate(connection, argv[2]);
  const std::string_view mode = argv[3];
  Plan plan;
  plan.write = mode.ends_with("write");
  plan.random = mode.starts_with("rand");
  plan.zipf = mode.starts_with("zipf");
  plan.size = std::strtoull(argv[4], nullptr, 10);
  plan.depth = std::strtoull(argv[5], nullptr, 10);
  const std::uint64_t span = argc > 7 ? std::strtoull(argv[7], nullptr, 10) : 0;
  plan.span = span != 0 ? std::min(disk, span) : disk;
  plan.rate = argc > 8 ? std::strtod(argv[8], nullptr) : 0;
  if (plan.size == 0 || plan.depth == 0 || plan.span < plan.size) fail("size, depth and span do not fit the export");
  Load load(connection, plan);
  const std::string_view seconds = argv[6];
  const auto turn = [&](const char* length) {
    load.run(std::strtod(length, nullptr));
    fmt::print("{}\n", load.report());
    std::fflush(stdout);
  };
  if (seconds != "-") return turn(argv[6]), 0;
  for (char line[64]; std::fgets(line, sizeof line, stdin);) turn(line);
}
