// A progress bar on a terminal's standard error, with rate and time left; nothing elsewhere.
#pragma once

#include <string>

#include "app/cli/context.hpp"

namespace tidemark::cli {

class Progress {
 public:
  Progress(const Context& context, std::string label);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;

  void update(std::uint64_t done, std::uint64_t total);
  void finish();                              // leaves the line empty for what is printed next

 private:
  const Context& context_;
  std::string label_;
  Instant started_, shown_at_{};
  bool shown_ = false;
};

}  // namespace tidemark::cli
