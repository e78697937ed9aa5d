#include "task/range_lock.hpp"

namespace tidemark {

bool RangeLock::blocked(const Entry& entry) const noexcept {
  for (const Entry* e = first_; e != &entry; e = e->after)
    if (e->range.overlaps(entry.range) && (e->mode == Mode::exclusive || entry.mode == Mode::exclusive))
      return true;
  return false;
}

bool RangeLock::append(Entry& entry) noexcept {
  entry.before = last_;
  (last_ ? last_->after : first_) = &entry;
  last_ = &entry;
  entry.granted = !blocked(entry);
  return entry.granted;
}

void RangeLock::remove(Entry& entry) noexcept {
  if (first_ != &entry && !entry.before) return;  // never awaited
  (entry.before ? entry.before->after : first_) = entry.after;
  (entry.after ? entry.after->before : last_) = entry.before;
  for (Entry* e = entry.after; e; e = e->after) {
    if (e->granted || !e->range.overlaps(entry.range) || blocked(*e)) continue;
    e->granted = e->posted = true;
    executor_.post(e->waiter);
  }
}

}  // namespace tidemark
