#include "export/nbd/reply_queue.hpp"

namespace tidemark {
namespace {

constexpr std::size_t pieces_max = 1024;     // IOV_MAX
constexpr std::size_t held_max = 256 * KiB;  // more is sent at once: it should still be in the cache

iovec piece_of(Bytes bytes) { return {const_cast<std::byte*>(bytes.data()), bytes.size()}; }

}  // namespace

void ReplyQueue::push(NbdReply reply) {
  if (failed_) return;
  queued_ += reply.size();
  replies_.push_back(std::move(reply));
  if (!held_) wake();
  else if (queued_ >= held_max) flush();
}

Buffers ReplyQueue::gather() {
  pieces_.clear();
  std::size_t skip = sent_;
  for (const NbdReply& reply : replies_) {
    if (pieces_.size() + 2 > pieces_max) break;
    for (Bytes part : {Bytes(reply.head).first(reply.head_size), reply.body}) {
      const std::size_t skipped = std::min(skip, part.size());
      skip -= skipped;
      if (part.size() > skipped) pieces_.push_back(piece_of(part.subspan(skipped)));
    }
  }
  return Buffers(pieces_);
}

void ReplyQueue::advance(std::int64_t result) noexcept {
  if (result <= 0) {
    failed_ = true;
    replies_.clear();
    stop_.request();
    drop_.request();
  } else {
    sent_ += static_cast<std::size_t>(result);
    while (!replies_.empty() && sent_ >= replies_.front().size()) {
      const std::size_t size = replies_.front().size();
      sent_ -= size;
      queued_ -= size;
      replies_.pop_front();
    }
  }
}

void ReplyQueue::flush() noexcept {
  while (!sending_ && !replies_.empty()) {
    IoOp op(IoOp::Kind::send, socket_.handle());
    op.buffers = gather();
    if (!socket_.reactor().backend().try_now(op)) return wake();
    advance(op.result);
  }
}

Task<> ReplyQueue::run() {
  for (;;) {
    while (!replies_.empty()) {
      IoOp op(IoOp::Kind::send, socket_.handle());
      op.buffers = gather();
      sending_ = true;
      const std::int64_t result = co_await socket_.reactor().perform(op, drop_.token());
      sending_ = false;
      advance(result);
    }
    if (closed_ || failed_) co_return;
    co_await wake_.wait();
  }
}

void ReplyQueue::close() noexcept {
  closed_ = true;
  wake();
}

}  // namespace tidemark
