// A stage's scratch file.
#include <algorithm>

#include "filter/stage.hpp"
#include "task/detached.hpp"

namespace tidemark {
namespace {

constexpr std::size_t batch_max = 256;  // units written at once
constexpr const char* directory_default = "/var/tmp";

}  // namespace

std::string Stage::directory() const {
  return options_.directory.empty() ? directory_default : options_.directory;
}

Task<> Stage::open_scratch() {
  OpenFlags flags;
  flags.write = flags.temporary = true;
  auto opened = co_await File::open(reactor_, directory(), flags).result();
  if (!opened) {
    const Error& why = opened.error();
    co_await Error(why.code(), "no scratch file for staging can be made: " + why.message() +
                                   "; choose another spill-directory, or spill=off", why.to_errno());
  }
  scratch_ = *std::move(opened);
}

// From three quarters of the memory down to the half.
void Stage::start_spilling() {
  if (spilling_ || !can_spill() || pool_.used() <= pool_.limit() / 4 * 3) return;
  spilling_ = true;
  run_detached(spill(), running_.enter());
}

Task<> Stage::spill() {
  while (!ended_ && !spill_error_ && pool_.used() > pool_.limit() / 2) {
    const Result<std::size_t> done = co_await spill_some().result();
    if (done && *done == 0) break;  // all there is has yet to be added
    if (!done) spill_error_ = done.error();
    room_.notify_all();
  }
  spilling_ = false;
}

Task<std::size_t> Stage::spill_some() {
  if (!scratch_.is_open()) co_await open_scratch();
  std::vector<StagePool::Pinned> units = pool_.pin_some(batch_max);
  std::ranges::sort(units, {}, &StagePool::Pinned::number);
  const std::vector<std::uint32_t> slots = take_scratch(units.size());
  const Result<> written = co_await write_scratch(units, slots).result();
  for (std::size_t i = 0; i < units.size(); ++i) {
    const bool wanted = pool_.unpin(units[i].slot);
    if (!wanted || !written) {
      scratch_free_.push_back(slots[i]);
      continue;
    }
    units_.insert_or_assign(units[i].number, Place::scratch(slots[i]));
    pool_.give_back(units[i].slot);
    ++spilled_;
  }
  co_await unwrap(written);
  co_return units.size();
}

std::vector<std::uint32_t> Stage::take_scratch(std::size_t count) {
  const std::size_t again = std::min(count, scratch_free_.size());
  std::vector<std::uint32_t> slots(scratch_free_.end() - static_cast<std::ptrdiff_t>(again), scratch_free_.end());
  scratch_free_.resize(scratch_free_.size() - again);
  while (slots.size() < count) slots.push_back(scratch_end_++);
  std::ranges::sort(slots);
  return slots;
}

Task<> Stage::write_scratch(const std::vector<StagePool::Pinned>& units,
                            const std::vector<std::uint32_t>& slots) {
  for (std::size_t i = 0; i < units.size();) {
    std::vector<iovec> run;
    const std::size_t first = i;
    do {
      const MutableBytes data = pool_.bytes(units[i].slot);
      run.push_back({data.data(), data.size()});
      ++i;
    } while (i < units.size() && slots[i] == slots[first] + (i - first));
    co_await scratch_.write(std::uint64_t{slots[first]} * unit, Buffers(std::span<const iovec>(run)));
  }
}

}  // namespace tidemark
