#include "app/cli/progress.hpp"

#include <algorithm>
#include <cstdio>

#include <fmt/format.h>

#include "app/cli/text.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration redraw_interval = std::chrono::milliseconds(100);
constexpr int bar_width = 30;

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
  const int filled = static_cast<int>(share * bar_width);
  std::string line = fmt::format("{} [{:=<{}}{: <{}}] {:3.0f}%", label_, "", filled, "", bar_width - filled, share * 100);
  if (rate > 0) {
    line += fmt::format("  {}/s", human_size(static_cast<std::uint64_t>(rate)));
    line += fmt::format("  {} left", human_duration(static_cast<double>(total - std::min(done, total)) / rate));
  }
  std::fputs(("\r" + line + "\x1b[K").c_str(), stderr);       // a terminal that has gone is no matter
}

void Progress::finish() {
  if (!shown_) return;
  shown_ = false;
  std::fputs("\r\x1b[K", stderr);
}

}  // namespace tidemark::cli
