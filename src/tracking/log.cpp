#include "tracking/log.hpp"

#include <algorithm>

namespace tidemark::tracking {

Log::Log(Home& home, File& file, LogOwner& owner)
    : home_(home), file_(file), owner_(owner), changed_(home), older_gone_(home), idle_(home) {}

void Log::start(const Superblock& root, bool durable) {
  durable_ = durable;
  use(root);
  for (auto& task : tasks_) {
    task = std::make_unique<Background>(home_);
    task->start(write_batches());
  }
}

void Log::use(const Superblock& root) noexcept {
  shape_ = root;
  blocks_ = root.log_bytes / log_block_bytes;
  rotate(root.log_epoch);
}

Task<> Log::stop() {
  stopping_ = true;
  changed_.notify_all();
  for (auto& task : tasks_)
    if (task) co_await task->join();
}

Log::BatchPtr Log::find(Range range) const noexcept {
  for (const BatchPtr& batch : batches_)
    for (const Range have : batch->ranges)
      if (range.offset >= have.offset && range.end() <= have.end()) return batch;
  return nullptr;
}

// The batch that has the range already, or the one that collects, with the range in it.
Log::BatchPtr Log::join(Range range) {
  if (BatchPtr batch = find(range)) return batch;
  if (!collecting_) {
    collecting_ = std::make_shared<Batch>(home_);
    batches_.push_back(collecting_);
  }
  BatchPtr batch = collecting_;
  batch->ranges.push_back(range);
  if (batch->ranges.size() == log_block_records) collecting_.reset();
  changed_.notify_all();
  return batch;
}

Task<> Log::append(Range range) {
  if (refused_) co_await *refused_;
  const BatchPtr batch = join(range);
  co_await batch->done.wait();
  if (batch->failure) co_await *batch->failure;
}

void Log::append_unawaited(Range range) {
  if (!refused_) (void)join(range);
}

void Log::rotate(std::uint64_t epoch) noexcept {
  older_ += under_way_.size();
  under_way_.clear();
  failed_ = ~std::uint64_t{0};
  epoch_ = epoch;
  next_ = 0;
  refused_.reset();
  changed_.notify_all();
}

Task<> Log::wait_older() {
  while (older_ != 0) (void)co_await older_gone_.wait();
}

Task<> Log::wait_idle() {
  while (!batches_.empty()) (void)co_await idle_.wait();
}

void Log::refuse(Error error) noexcept {
  refused_ = std::move(error);
  changed_.notify_all();
}

void Log::end(Batch& batch, std::optional<Error> failure) noexcept {
  batch.failure = std::move(failure);
  std::erase_if(batches_, [&](const BatchPtr& b) { return b.get() == &batch; });
  batch.done.set();
  if (batches_.empty()) idle_.wake_all();
}

std::uint64_t Log::durable_before() const noexcept {
  std::uint64_t before = std::min(next_, failed_);
  for (const std::uint64_t block : under_way_) before = std::min(before, block);
  return before;
}

Task<> Log::write_batches() {
  for (;;) {
    const auto waiting = std::find_if(batches_.begin(), batches_.end(), [](const BatchPtr& b) { return !b->taken; });
    if (waiting == batches_.end()) {
      if (stopping_) co_return;
      co_await changed_.wait();
      co_await home_.reactor().yield();          // what else this turn brings goes along
      continue;
    }
    const BatchPtr batch = *waiting;
    if (!refused_ && full() && !stopping_) {
      owner_.log_fills();
      if (!refused_ && full()) co_await changed_.wait();     // unless that was dealt with at once
      continue;
    }
    batch->taken = true;
    if (collecting_ == batch) collecting_.reset();
    if (refused_ || full()) end(*batch, refused_ ? *refused_ : Error(Errc::no_space, "the log is full"));
    else co_await write(batch);
  }
}

Task<> Log::write(BatchPtr batch) {
  const LogPlace place{epoch_, next_, durable_before()};
  under_way_.push_back(next_++);
  if (next_ == blocks_ - blocks_ / 4) owner_.log_fills();
  AlignedBuffer block(log_block_bytes);
  encode_log_block(block.bytes(), shape_.store_id, place, batch->ranges);
  const std::uint64_t at = shape_.half_start(place.epoch) + place.block * log_block_bytes;
  const Result<> written = co_await file_.write(at, block.bytes(), durable_).result();
  if (written) owner_.logged(batch->ranges, place.epoch);
  if (place.epoch == epoch_) {
    std::erase(under_way_, place.block);
    if (!written) failed_ = std::min(failed_, place.block);
  } else if (--older_ == 0) {
    older_gone_.wake_all();
  }
  if (written) end(*batch, std::nullopt);
  else end(*batch, written.error());
}

}  // namespace tidemark::tracking
