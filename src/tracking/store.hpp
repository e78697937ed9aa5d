// TrackingStore: keeps the persistent bitmaps of one node through crashes, in a file of its own
// (docs/formats/tracking-store.md; docs/decisions/0004-tracking-store.md has the protocol and why).
//
// Owned by its node, on the node's thread.  The node's requests end before it goes; before_close() and
// after_close() are awaited then.
//
// Invariants: a write is submitted only when a crash from then on leaves its granules dirty in every bitmap
// that records (`covered_`), or when the store says on disk that it has lost marks.  What the root names
// is durable and is not written over before another root counts.
#pragma once

#include "block/graph.hpp"
#include "io/home.hpp"
#include "tracking/image_record.hpp"
#include "tracking/log.hpp"
#include "tracking/snapshot.hpp"
#include "tracking/store_file.hpp"
#include "tracking/zones.hpp"

namespace tidemark::tracking {

using StoreReport = TrackingReport;

struct StoreOptions {
  std::string path;                       // of the store
  bool named = false;                     // by the user: may be a symbolic link
  std::string image;                      // the file or device that it is about
  std::vector<std::string> names;         // of a device, the surest first
  std::string distrusted;                 // why no bitmap that it has can be believed; empty: nothing is known
  Mode mode = Mode::power;
  std::uint64_t suspect_budget = 0;       // bytes beyond what was written; 0: no bound of its own
  std::uint64_t log_bytes = 4 * MiB;      // of each half, of a new store
  Rule broken = Rule::none;               // in tests
};

class TrackingStore final : public NodeTracking, LogOwner {
 public:
  // A new store, with the node's bitmaps, over what may be left of one that was never whole.  `marks`: the image will
  // be marked before a bitmap is added and before anything is written.
  static Task<std::unique_ptr<TrackingStore>> create(BlockNode& node, StoreOptions options, bool marks = false);
  // The node's store, its bitmaps recovered and added to the node; null when it has none.  `image` and `record` are how
  // the image was before anybody could write to it; bitmaps of the record that count are added, too.  Errors mean that
  // the node must not be used: marks would be missing from a store that somebody may believe later.
  static Task<std::unique_ptr<TrackingStore>> open(BlockNode& node, StoreOptions options, ImageIdentity image,
                                                   ImageRecord& record);
  // The same bitmaps for a node that is only read; nothing is written.  False: there is no store, or it is in use.
  static Task<bool> show(BlockNode& node, StoreOptions options, ImageIdentity image, ImageRecord& record);

  TrackingStore(BlockNode& node, StoreOptions options);    // the two above make them
  ~TrackingStore() override;

  bool admitted(Range range) noexcept override;
  Task<> admit(Range range) override;
  bool survives_crashes() const noexcept override { return true; }
  void resized(std::uint64_t size) noexcept override;
  Task<> save() override;
  Task<> before_close() override;
  Task<> after_close() override;
  Task<> settle() override;
  bool settled() const noexcept override;
  void leave() noexcept override;
  void arrive(Reactor& reactor) noexcept override;
  Task<GroupKeeper> keeper() override;
  Task<> intend(std::uint64_t group, const GroupKeeper& keeper) override;
  void withdraw(std::uint64_t group) noexcept override;
  Task<> decide(std::uint64_t group, std::uint64_t recorded_as) override;
  Task<> settle_group(std::uint64_t group) override;
  void forget_group(std::uint64_t group) noexcept override;

  // The number that the image's mark is to have.
  std::uint32_t mark() const noexcept { return root_.mark; }
  // Before after_close(): what the image holds by itself.
  void closed_with(std::uint64_t digest) noexcept { digest_ = digest; }

  const StoreOptions& options() const noexcept { return options_; }
  bool failed() const noexcept { return root_.lost || gone_; }

 private:
  enum class Depth : std::uint8_t { plain, lasting };       // lasting: after a flush, and forgets what is released
  // What a lasting checkpoint is to say of a group, from itself on: a loss that is not flushed yet is not to be stored.
  struct GroupStep {
    std::uint64_t group = 0;
    bool decides = false;                                    // else it intends
    std::uint64_t recorded_as = 0;                           // for those that ask the store of this number
    GroupKeeper keeper;
  };

  void logged(std::span<const Range> ranges, std::uint64_t epoch) noexcept override;
  void log_fills() noexcept override { request_checkpoint(); }
  bool keeps(Rule rule) const noexcept { return options_.broken != rule; }
  // A root that claims more than the mode keeps must not come back, either.
  bool durable() const noexcept {
    return options_.mode == Mode::power || closing_ || root_.clean || root_.mode == Mode::power;
  }
  void report(StoreReport::Kind kind, std::string message) const;

  // store.cpp
  Range missing(Range range) const noexcept;
  void open_zone_ahead(Range write);
  void start();
  Task<> stop();
  Task<> attend();                        // checkpoints, beside the requests
  void request_checkpoint() noexcept;
  Task<> end();
  Task<> close_root(ImageIdentity image);
  Task<> outlast(ImageIdentity image);
  void tell_end(const Result<>& ended) const;

  // store_open.cpp
  Task<> make();
  Task<> check_not_needed(const Superblock& there);
  Task<bool> find(StoreFile::Use use);
  Task<> report_no_root();
  StoreFile::Links links() const noexcept { return options_.named ? StoreFile::Links::follow : StoreFile::Links::refuse; }
  Task<bool> recover(ImageIdentity image, ImageRecord& record);
  Task<> bring_back(ImageIdentity image, ImageRecord& record);
  Task<std::optional<std::string>> judge(const Superblock& root, ImageIdentity image, const ImageRecord& record);
  Task<LoadedBitmaps> load(const Superblock& root, ImageIdentity image, ImageRecord& record);
  Task<std::optional<Catalogue>> intended();
  void say_inconsistent(NodeBitmap& bitmap, const std::string& why);
  LoadedBitmaps give_way(LoadedBitmaps ours, const Superblock& root, const std::string& why, ImageRecord& record);

  // store_checkpoint.cpp
  Task<> resume();
  Task<> checkpoint(Depth depth, const GroupStep* step = nullptr);
  Task<> checkpoint_without(Losses losses, const GroupStep* step);
  Task<> checkpoint_locked(Losses losses, const GroupStep* step);
  Task<> check_asked(const GroupStep* step) const;
  void complete(Catalogue& catalogue, const GroupStep* step) const;
  Task<> rotate();
  void close_zones(const std::optional<DirtyBitmap>& common);
  void cover(const std::optional<DirtyBitmap>& common);
  void set_grain(std::uint64_t grain);
  void begin(Superblock& root) const;
  Task<> write(Snapshot& snapshot, Superblock& root);
  Task<> turn(Superblock root, std::uint64_t failures);
  void free_unused();

  // store_failure.cpp
  Task<> fail(Error error);
  Task<> say_lost(const Error& error);
  void let_pass(const Error& error) noexcept;
  Task<> renew();

  BlockNode& node_;
  struct Known {
    const Graph* graph = nullptr;
    std::string name;
  };
  std::vector<std::uint64_t> places_;     // of a device, that tell best who has written it
  Known told_as_;                         // the node, when it is gone
  StoreOptions options_;
  Home home_;
  StoreFile file_;
  Log log_;
  Zones zones_;
  Mutex saves_;                           // one lasting checkpoint, with the flush before it
  Mutex checkpoints_, roots_;             // one checkpoint, one write of a root at a time

  Superblock root_;                       // that counts on disk
  Catalogue catalogue_;                   // that it names
  std::uint64_t intended_ = 0;            // a group that may end well, by another store's record
  GroupKeeper keeper_;                    // that one
  std::vector<std::uint64_t> records_;    // groups that have ended well, while others may ask
  Space space_;
  std::uint64_t version_ = 0;             // the last that a superblock had
  std::uint64_t epoch_last_ = 0;          // the last that a half may have

  DirtyBitmap covered_;                   // a crash leaves these dirty
  DirtyBitmap fresh_;                     // of them, logged in the log's present epoch
  bool passing_ = true;                   // writes are not held: the disk claims nothing of them
  bool as_stored_ = false;                // what was loaded is what the root names, and the disk is as it was
  bool anew_ = true;                      // the next root needs neither half of the log
  bool marked_ = false;                   // without the image's mark what roots say from here on does not count
  std::uint64_t digest_ = 0;              // of the bitmaps that the image is closed with
  std::uint64_t failures_ = 0;            // times that writes began to pass
  bool gone_ = false;                     // the file was removed, being of no use
  bool told_failed_ = false;
  Instant retry_at_{0};

  Event work_;
  bool wanted_ = false, stopping_ = false, closing_ = false;
  Result<> saved_ = Error(Errc::io, "it was not closed");      // at last
  Background attendant_;
};

}  // namespace tidemark::tracking
