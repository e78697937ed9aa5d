// copy-on-read: a filter that copies what is read from the layers below its `file` child into that child, which
// then no longer needs them.  What it shows stays the same.
//
// Made by hand it does so with what its users read.  A stream job puts one above its disk and pulls on its own;
// guests' reads pass.
//
// Invariant: nothing is written to a range between the look at where its content is and the write of that content:
// a copy has it alone, a user's write shares it, and nobody writes to `file` past the filter.
#pragma once

#include <memory>

#include "block/node.hpp"
#include "task/range_lock.hpp"

namespace tidemark {

struct CopyOnReadOptions {
  BlockNode* file = nullptr;
  BlockNode* bottom = nullptr;           // the last layer that is copied from; null: the last there is
  bool copies_reads = true;
  bool zeroes = false;                   // where nothing is below, too: what is below is about to change
};

class CopyOnRead final : public BlockDriver {
 public:
  CopyOnRead(Reactor& reactor, std::unique_ptr<Edge> file, std::unique_ptr<Edge> bottom, const CopyOnReadOptions& options);

  Edge& file() noexcept { return *file_; }

  // Where the first bytes of `wanted` are.
  struct Place {
    Range range;
    bool data = false, zero = false;     // neither: there is nothing to copy
  };
  Task<Place> look(Range wanted);
  // Copies what there is to be copied, through `buffer`.  Only while something of the filter's is in flight.
  Task<> pull(Range range, MutableBytes buffer);

  std::string_view name() const noexcept override { return "copy-on-read"; }
  std::uint64_t size() const noexcept override { return file_->size(); }
  bool is_filter() const noexcept override { return true; }
  bool supports_fua() const noexcept override { return true; }
  std::vector<Edge*> edges() const override;
  Permissions child_permissions(const Edge& child, Permissions node, bool writable) const override;

  Task<Extent> map(Range wanted) override { return file_->map(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override;
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override;
  Task<> write_zeroes(Range range, WriteFlags flags) override;
  bool supports_compression() const noexcept override { return file_->node().driver().supports_compression(); }
  Task<> write_compressed(std::uint64_t offset, Buffers from) override;
  Task<> discard(Range range) override;
  Task<> truncate(std::uint64_t size, Growth growth) override { return file_->truncate(size, growth); }
  Task<> flush() override { return file_->flush(); }
  Task<ImageInfo> info() override;
  Task<> close() override;

 private:
  Task<> pull_reads(Range wanted);
  Task<> pull_locked(Range range, MutableBytes buffer);

  std::unique_ptr<Edge> file_;
  std::unique_ptr<Edge> bottom_;         // not a child: it only keeps the node there
  const bool copies_reads_, zeroes_;
  RangeLock locks_;
};

// Errors are QEMU's.
Result<std::unique_ptr<CopyOnRead>> open_copy_on_read(CopyOnReadOptions options);

}  // namespace tidemark
