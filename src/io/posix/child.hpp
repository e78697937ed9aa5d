// Child: a program that was started, as the leader of a process group of its own, so that what a terminal's keys end is not it.
// Its standard output is this program's standard error; signals have their default effect.
#pragma once

#include <string>
#include <vector>

#include <sys/types.h>

#include "io/reactor.hpp"

namespace tidemark {

// Both ends of a pipe; none is inherited unless a Child is given it.
class Pipe {
 public:
  static Result<Pipe> create();
  Pipe(Pipe&& other) noexcept;
  Pipe(const Pipe&) = delete;
  Pipe& operator=(Pipe&&) = delete;
  ~Pipe();

  int reading() const noexcept { return reading_; }
  int writing() const noexcept { return writing_; }
  void close_reading() noexcept;
  // Writes a line and closes: who reads sees a line or, when this program was killed before, the end.
  void tell() noexcept;

 private:
  Pipe(int reading, int writing) noexcept : reading_(reading), writing_(writing) {}
  int reading_ = -1, writing_ = -1;
};

class Child {
 public:
  struct Options {
    int input = -1;                        // its standard input; -1: nothing to be read
    int kept = -1;                         // another file that it has open, too; -1: none
  };
  static Result<Child> start(std::vector<std::string> words, Options options);

  // Its exit status, or 128 and the signal that ended it.  An error that is cancelled: it goes on.
  Task<int> wait(Reactor& reactor, CancelToken token = {});
  // The process and all of its group.
  void kill() noexcept;

 private:
  explicit Child(pid_t pid) noexcept : pid_(pid) {}
  pid_t pid_;
};

}  // namespace tidemark
