// NextTables: the tables that an image is to have after a snapshot was made, applied or deleted, built beside those
// it has and put in their place by one write of the header.
//
// A copy of the refcounts takes the changes; new tables lie in clusters of their own; nothing that the present
// tables say is touched.  So a crash leaves the image as it was, with clusters leaked at most, or as it is to be.
// The node is drained meanwhile.  What fails before commit() gives its clusters back.
#pragma once

#include <functional>

#include "format/qcow2/tables/cluster_map.hpp"
#include "format/qcow2/tables/committer.hpp"

namespace tidemark::qcow2 {

// An L1 table and what it leads to.
struct Tree {
  HostOffset l1_at;
  std::uint64_t l1_entries = 0;
};

class NextTables {
 public:
  struct Image {
    Executor& executor;
    ImageFile& file;
    Refcounts& refcounts;
    Committer& committer;
    HeaderWriter& header_writer;
  };
  // Refcounts as wide as now, or of another order.
  explicit NextTables(Image image, std::optional<std::uint32_t> refcount_order = {});

  void set_progress(std::function<void(std::uint64_t done, std::uint64_t total)> progress) { progress_ = std::move(progress); }

  // First: copies the refcounts.  `tables`: how many more clusters will be needed, about.
  Task<> begin(std::uint64_t tables);

  // One user more of the tree's data; none of the tree and its data.
  Task<> share_data(Tree tree);
  Task<> drop(Tree tree);
  Task<> drop(HostRun run);
  // New tables that say the same, with as many L1 entries as asked; they know which clusters are theirs alone by the
  // refcounts as they are then.
  Task<Tree> copy(Tree tree, std::uint64_t l1_entries);
  // The same for a tree that is not needed any more: what need not change stays.
  Task<Tree> replace(Tree tree);
  // The bytes in new clusters.
  Task<HostRun> store(Bytes bytes);

  // Makes `next`, but for its refcount table, what the header says, and the counts those of the image.
  Task<> commit(Header next);
  // Gives back what was not committed.
  void abandon();
  // What is free now, when it is.
  const std::vector<HostRun>& freed() const noexcept { return freed_; }

 private:
  Task<std::vector<std::uint64_t>> read_words(HostOffset at, std::uint64_t count);
  Task<> check_l2(HostOffset at);
  Task<> change_data(HostOffset l2_at, bool raise);
  Task<> count(HostRun run, bool raise);
  Task<HostRun> allocate(std::uint64_t clusters);
  Task<bool> mark_own(std::vector<std::uint64_t>& words);
  Task<std::uint64_t> copy_l2(HostOffset at, bool replaced);
  Task<Tree> copy_tree(Tree tree, std::uint64_t l1_entries, bool replaced);
  Task<HostRun> store_words(const std::vector<std::uint64_t>& words);
  Task<> copy_block(HostOffset from, HostRun to);
  Task<> copy_counts();
  Task<> convert_counts();
  Task<> drop_held();
  Task<> drop_present_refcounts();
  Task<> write_out();

  ImageFile& file_;
  Refcounts& present_;
  Committer& committer_;
  HeaderWriter& header_writer_;
  ExtentPins no_pins_;
  FreeList no_frees_;
  Refcounts next_;
  std::vector<HostRun> taken_, freed_;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress_;    // of converting counts: bytes of the file
};

}  // namespace tidemark::qcow2
