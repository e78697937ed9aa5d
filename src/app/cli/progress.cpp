#include "app/cli/progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "app/cli/text.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration redraw_interval = std::chrono::milliseconds(100);
constexpr int bar_width_max = 30, bar_width_min = 5;

// A line that wraps could not be drawn over.
int columns() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(const Context& context, std::string label)
    : context_(context), label_(std::move(label)), started_(context.reactor.now()) {}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  if (!context_.show_progress || total == 0) return;
  const Instant now = context_.reactor.now();
  if (shown_ && now - shown_at_ < redraw_interval) return;
  shown_ = true;
  shown_at_ = now;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  std::string numbers = fmt::format("{:3.0f}%", share * 100);
  if (rate > 0) {
    numbers += fmt::format("  {}/s", human_size(static_cast<std::uint64_t>(rate)));
    numbers += fmt::format("  {} left", human_duration(static_cast<double>(total - std::min(done, total)) / rate));
  }
  const int width_max = columns() - 1;
  const int room = width_max - static_cast<int>(label_.size() + numbers.size()) - 4;       // blanks and brackets
  const int width = std::clamp(room, bar_width_min, bar_width_max), filled = static_cast<int>(share * width);
  const std::string bar = room < bar_width_min ? std::string() : fmt::format("[{:=<{}}{: <{}}] ", "", filled, "", width - filled);
  // What changes is worth more than what it is of.
  const auto label_max = static_cast<std::size_t>(std::max(0, width_max - static_cast<int>(numbers.size()) - 1));
  std::string line = fmt::format("{} {}{}", bar.empty() ? label_.substr(0, label_max) : label_, bar, numbers);
  line.resize(std::min(line.size(), static_cast<std::size_t>(std::max(0, width_max))));
  std::fputs(("\r" + line + "\x1b[K").c_str(), stderr);       // a terminal that has gone is no matter
}

void Progress::finish() {
  if (!shown_) return;
  shown_ = false;
  std::fputs("\r\x1b[K", stderr);
}

}  // namespace tidemark::cli
