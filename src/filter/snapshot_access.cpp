#include "filter/snapshot_access.hpp"

#include "filter/copy_before_write.hpp"

namespace tidemark {
namespace {

// The point is found when the node is made, and not through the edge later: a filter may be
// inserted between the two, with a point of its own.
class SnapshotAccess final : public BlockDriver {
 public:
  SnapshotAccess(std::unique_ptr<Edge> file, std::weak_ptr<Point> point)
      : file_(std::move(file)), point_(std::move(point)), size_(file_->size()) {}

  std::string_view name() const noexcept override { return "snapshot-access"; }
  std::uint64_t size() const noexcept override { return size_; }
  std::vector<Edge*> edges() const override {
    return file_ ? std::vector<Edge*>{file_.get()} : std::vector<Edge*>{};
  }
  // The present content of `file` is no concern of this node's users; but from here on the filter is used, and nobody writes
  // past it.
  Permissions child_permissions(const Edge&, Permissions, bool) const override {
    return {Permissions::consistent_read, Permissions::all};
  }

  Task<Extent> map(Range wanted) override {
    const auto point = co_await unwrap(find());
    co_return co_await point->map(wanted);
  }
  Task<> read(std::uint64_t offset, Buffers into) override {
    const auto point = co_await unwrap(find());
    co_await point->read(offset, into);
  }
  Task<> write(std::uint64_t, Buffers, WriteFlags) override {
    co_await Error(Errc::unsupported, "snapshot-access: a point in time cannot be written",
                   ENOTSUP);
  }
  Task<> discard(Range range) override {
    const auto point = co_await unwrap(find());
    co_await point->release(range);
  }
  Task<> flush() override { co_return; }
  Task<ImageInfo> info() override {
    ImageInfo info = co_await file_->node().driver().info();
    info.format = name();
    info.dirty.reset();
    co_return info;
  }
  Task<> close() override {
    file_.reset();
    co_return;
  }

 private:
  Result<std::shared_ptr<Point>> find() const {
    if (auto point = point_.lock()) return point;
    return Error(Errc::permission, "snapshot-access: the copy-before-write filter is gone", EACCES);
  }

  std::unique_ptr<Edge> file_;
  std::weak_ptr<Point> point_;
  std::uint64_t size_;
};

}  // namespace

Task<std::unique_ptr<BlockDriver>> open_snapshot_access(BlockNode& file) {
  auto* filter = dynamic_cast<CopyBeforeWrite*>(&file.driver());
  if (!filter)
    co_await Error(Errc::invalid_argument,
                   "snapshot-access: node '" + file.name() + "' is not a copy-before-write filter");
  if (filter->stage())
    co_await Error(Errc::invalid_argument, "snapshot-access: node '" + file.name() +
                                               "' is the filter of a backup, which keeps its point for itself");
  auto edge = Edge::attach(file, Role::file, {}, "snapshot-access");
  if (!edge) co_await edge.error();
  co_return std::unique_ptr<BlockDriver>(
      std::make_unique<SnapshotAccess>(*std::move(edge), filter->shared_point()));
}

}  // namespace tidemark
