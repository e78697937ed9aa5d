// What a server behind a unix socket can reach on this machine: random direct writes of 4 KiB from a client process
// to a server process that hands them to io_uring and answers.  No protocol to speak of, no checks, no engine, one
// file.  What is between this and a program that writes the file itself is the price of the socket.
//
//   bare_pair FILE DEPTH SECONDS
//
// Prints one JSON object.  A message is the slot's number, the offset, and the data; the answer is the number.

#include <fmt/format.h>
#include <liburing.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/random.hpp"
#include "io/aligned.hpp"

namespace {

using namespace tidemark;
using Clock = std::chrono::steady_clock;

constexpr std::size_t block = 4096;
struct Head {
  std::uint64_t slot, offset;
};
constexpr std::size_t message_bytes = sizeof(Head) + block;
constexpr std::uint64_t receive_tag = ~std::uint64_t{0};

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

void send_all(int socket, const std::byte* data, std::size_t size) {
  while (size != 0) {
    const ssize_t sent = ::send(socket, data, size, MSG_NOSIGNAL);
    if (sent <= 0) fail("bare_pair: send");
    data += sent;
    size -= static_cast<std::size_t>(sent);
  }
}

class BareServer {
 public:
  BareServer(int socket, int file, std::size_t depth)
      : socket_(socket), file_(file), inbox_(depth * message_bytes), memory_(depth * block) {
    constexpr unsigned flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    if (::io_uring_queue_init(256, &ring_, flags) != 0) fail("bare_pair: io_uring");
  }

  [[noreturn]] void run() {
    for (;;) {
      if (!receiving_) receive();
      ::io_uring_submit_and_wait(&ring_, 1);
      reap();
      if (!receiving_) take_messages();
    }
  }

 private:
  void receive() {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    ::io_uring_prep_recv(sqe, socket_, inbox_.data() + have_, inbox_.size() - have_, 0);
    sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
    sqe->user_data = receive_tag;
    receiving_ = true;
  }

  void reap() {
    answers_.clear();
    unsigned head, count = 0;
    io_uring_cqe* cqe;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      ++count;
      if (cqe->user_data != receive_tag) {
        if (cqe->res != static_cast<int>(block)) fail("bare_pair: write");
        answers_.push_back(cqe->user_data);
        continue;
      }
      if (cqe->res <= 0) fail("bare_pair: receive");
      have_ += static_cast<std::size_t>(cqe->res);
      receiving_ = false;
    }
    ::io_uring_cq_advance(&ring_, count);
    const auto* answers = reinterpret_cast<const std::byte*>(answers_.data());
    if (!answers_.empty()) send_all(socket_, answers, answers_.size() * sizeof(std::uint64_t));
  }

  void take_messages() {
    std::size_t at = 0;
    for (; have_ - at >= message_bytes; at += message_bytes) {
      Head head;
      std::memcpy(&head, &inbox_[at], sizeof head);
      std::byte* data = memory_.data() + head.slot * block;
      std::memcpy(data, &inbox_[at + sizeof head], block);
      io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
      ::io_uring_prep_write(sqe, file_, data, block, head.offset);
      sqe->user_data = head.slot;
    }
    have_ -= at;
    std::memmove(inbox_.data(), inbox_.data() + at, have_);
  }

  const int socket_, file_;
  io_uring ring_;
  std::vector<std::byte> inbox_;
  std::size_t have_ = 0;
  AlignedBuffer memory_;
  std::vector<std::uint64_t> answers_;
  bool receiving_ = false;
};

// Requests a second.
double run_client(int socket, std::uint64_t places, std::size_t depth, double seconds) {
  Prng random(1);
  std::vector<std::byte> messages(depth * message_bytes);
  for (std::byte& byte : messages) byte = static_cast<std::byte>(random() | 1);
  std::vector<std::uint64_t> slots(depth);
  for (std::size_t i = 0; i < depth; ++i) slots[i] = i;
  std::vector<std::byte> answers(depth * sizeof(std::uint64_t));
  std::uint64_t done = 0;
  std::size_t have = 0;
  const auto start = Clock::now();
  for (;;) {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const Head head{slots[i], random.below(places) * block};
      std::memcpy(&messages[i * message_bytes], &head, sizeof head);
    }
    send_all(socket, messages.data(), slots.size() * message_bytes);
    const std::chrono::duration<double> passed = Clock::now() - start;
    if (passed.count() > seconds) return static_cast<double>(done) / passed.count();
    const ssize_t got = ::recv(socket, answers.data() + have, answers.size() - have, 0);
    if (got <= 0) fail("bare_pair: receive");
    have += static_cast<std::size_t>(got);
    slots.resize(have / sizeof(std::uint64_t));
    std::memcpy(slots.data(), answers.data(), slots.size() * sizeof(std::uint64_t));
    have -= slots.size() * sizeof(std::uint64_t);
    std::memmove(answers.data(), answers.data() + slots.size() * sizeof(std::uint64_t), have);
    done += slots.size();
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t depth = argc == 4 ? std::strtoul(argv[2], nullptr, 10) : 0;
  if (depth == 0 || depth > 128) {
    fmt::print(stderr, "usage: bare_pair FILE DEPTH SECONDS\n");
    return 1;
  }
  const int file = ::open(argv[1], O_RDWR | O_DIRECT | O_CLOEXEC);
  struct stat info;
  if (file < 0 || ::fstat(file, &info) != 0) fail("bare_pair: open");
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0) fail("bare_pair: socketpair");
  const pid_t server = ::fork();
  if (server == 0) {
    ::close(sockets[0]);
    BareServer(sockets[1], file, depth).run();
  }
  ::close(sockets[1]);
  const auto places = static_cast<std::uint64_t>(info.st_size) / block;
  const double rate = run_client(sockets[0], places, depth, std::strtod(argv[3], nullptr));
  ::kill(server, SIGKILL);
  ::waitpid(server, nullptr, 0);
  fmt::print("{{\"per-second\": {:.1f}}}\n", rate);
}
