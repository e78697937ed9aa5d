// Transaction: all committed, or all undone newest first; dropped means undone.
//
// Everything that can fail happens before commit(): steps cannot fail and cannot await.
#pragma once

#include <functional>
#include <vector>

namespace tidemark {

class Transaction {
 public:
  Transaction() = default;
  Transaction(const Transaction&) = delete;
  ~Transaction() {
    if (!finished_) abort();
  }
  void on_commit(std::function<void()> step) { commits_.push_back(std::move(step)); }
  void on_abort(std::function<void()> step) { aborts_.push_back(std::move(step)); }
  void commit() noexcept {
    finished_ = true;
    for (auto& step : commits_) step();
  }
  // What the steps are about is gone.
  void forget() noexcept { finished_ = true; }
  void abort() noexcept {
    finished_ = true;
    for (auto step = aborts_.rbegin(); step != aborts_.rend(); ++step) (*step)();
  }

 private:
  std::vector<std::function<void()>> commits_, aborts_;
  bool finished_ = false;
};

}  // namespace tidemark
