// LossDebt: losses of what an export's clients have written that one of them may not have heard of.
//
// Each client is told at its next flush (Edge::flush).  One whose connection breaks while its flush fails is answered by nobody,
// and comes again as another client, whose flush may succeed.  So from a flush that fails on, or when one goes who has written
// something that no good flush of its own covers, the next ones are told, too, each once, until a flush succeeds.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tidemark {

class LossDebt {
 public:
  // `known`: how many losses it surely knows of whose flush has failed...
  void owe(std::uint64_t known) noexcept {
    if (!open_) ++number_;
    known_ = open_ ? std::min(known_, known) : known;
    open_ = true;
  }
  // ...or who has gone: those who are there may be the same.
  void owe_one_gone(std::uint64_t known) noexcept {
    if (open_) ++number_;
    owe(known);
  }
  // A flush has succeeded; `number` was the debt's when it began.
  void settle(std::uint64_t number) noexcept { open_ = open_ && number != number_; }

  bool open() const noexcept { return open_; }
  std::uint64_t number() const noexcept { return number_; }
  std::uint64_t known() const noexcept { return known_; }

 private:
  bool open_ = false;
  std::uint64_t number_ = 0, known_ = 0;
};

}  // namespace tidemark
