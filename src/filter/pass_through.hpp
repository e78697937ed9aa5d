// PassThrough: the base of filters that let requests through to their one child, each for itself.
//
// Their nodes complete requests to whole units, as what is below wants it; of the last one what lies behind the end of the
// disk is the node's padding, which does not go on.
#pragma once

#include <memory>

#include "block/node.hpp"

namespace tidemark {

class PassThrough : public BlockDriver {
 public:
  std::uint64_t size() const noexcept override { return file_->size(); }
  BlockLimits limits() const noexcept override { return file_->node().limits(); }
  bool is_filter() const noexcept override { return true; }
  bool supports_fua() const noexcept override { return true; }
  std::vector<Edge*> edges() const override { return file_ ? std::vector<Edge*>{file_.get()} : std::vector<Edge*>{}; }

  Task<Extent> map(Range wanted) override { return file_->map(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override {
    const std::uint64_t length = in_disk(offset, into.size());
    into.from(length).fill_zero();
    co_await file_->read(offset, into.first(length));
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    return file_->write(offset, from.first(in_disk(offset, from.size())), flags);
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override { return file_->write_zeroes(in_disk(range), flags); }
  Task<> discard(Range range) override { return file_->discard(in_disk(range)); }
  Task<> flush() override {
    file_->tell(DebugEvent::flush_to_os);
    file_->tell(DebugEvent::flush_to_disk);
    return file_->flush();
  }
  bool supports_compression() const noexcept override { return file_->node().driver().supports_compression(); }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override {
    return file_->write_compressed(offset, from.first(in_disk(offset, from.size())));
  }
  Task<> truncate(std::uint64_t size, Growth growth) override { return file_->truncate(size, growth); }
  Task<ImageInfo> info() override {
    ImageInfo info = co_await file_->node().driver().info();
    info.format = name();
    info.qcow2.reset();
    co_return info;
  }
  Task<> close() override {
    file_.reset();
    co_return;
  }

 protected:
  PassThrough(Reactor& reactor, std::unique_ptr<Edge> file) : BlockDriver(reactor), file_(std::move(file)) {}
  Edge& file() const noexcept { return *file_; }

 private:
  std::unique_ptr<Edge> file_;
};

}  // namespace tidemark
