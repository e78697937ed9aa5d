// commit_top: what a commit job puts above the layers that it writes into their base.  It shows what is below, which
// stays the same; what they are below it is the job's own affair, so it asks nothing of them and minds nothing.
#pragma once

#include <memory>

#include "filter/filter_info.hpp"

namespace tidemark {

class CommitTop final : public BlockDriver {
 public:
  static Result<std::unique_ptr<CommitTop>> open(BlockNode& top) {
    auto file = Edge::attach(top, Role::filtered, {}, "commit_top");
    if (!file) return file.error();
    return std::make_unique<CommitTop>(top.reactor(), *std::move(file));
  }
  CommitTop(Reactor& reactor, std::unique_ptr<Edge> file) : BlockDriver(reactor), file_(std::move(file)) {}

  std::string_view name() const noexcept override { return "commit_top"; }
  std::uint64_t size() const noexcept override { return file_->size(); }
  bool is_filter() const noexcept override { return true; }
  std::vector<Edge*> edges() const override { return file_ ? std::vector<Edge*>{file_.get()} : std::vector<Edge*>(); }
  Permissions child_permissions(const Edge&, Permissions, bool) const override { return {}; }

  Task<Extent> map(Range wanted) override { return file_->map(wanted); }
  Task<> read(std::uint64_t offset, Buffers into) override { return file_->read(offset, into); }
  Task<> write(std::uint64_t, Buffers, WriteFlags) override { co_await refused(); }
  Task<> write_zeroes(Range, WriteFlags) override { co_await refused(); }
  Task<> flush() override { return file_->flush(); }
  Task<ImageInfo> info() override { return filter_info(file_->node(), name()); }
  Task<> close() override {
    file_.reset();
    co_return;
  }

 private:
  static Error refused() { return Error(Errc::permission, "commit_top: it is only read", 1); }

  std::unique_ptr<Edge> file_;
};

}  // namespace tidemark
