// TableCache: slices of metadata tables (L2 tables, refcount blocks) in memory, by host offset.
//
// Write-back: changes stay here until the Committer takes them.  A slice that is pinned, dirty or
// being written is not dropped; what is clean is, by second chance, when there are more than `max`.
// The cache grows beyond that only by what is pinned or dirty, which its users bound.
#pragma once

#include <memory>
#include <unordered_map>

#include "format/qcow2/tables/image_file.hpp"
#include "format/qcow2/tables/table_source.hpp"
#include "task/sync.hpp"

namespace tidemark::qcow2 {

class TableCache final : public TableSource {
 public:
  class Slice {
   public:
    HostOffset at() const noexcept { return at_; }
    const std::byte* data() const noexcept { return bytes_.data(); }
    // Whoever writes calls TableCache::changed() before anything else can run.
    std::byte* writable() noexcept { return bytes_.data(); }
    std::uint64_t entry(std::uint64_t i) const noexcept {
      return load_be<std::uint64_t>(bytes_.data() + i * entry_bytes);
    }
    void set_entry(std::uint64_t i, std::uint64_t value) noexcept {
      store_be(bytes_.data() + i * entry_bytes, value);
    }

   private:
    friend class TableCache;
    Slice(HostOffset at, std::size_t size) : at_(at), bytes_(size) {}
    bool idle() const noexcept { return pins_ == 0 && !dirty_ && !loading_; }

    HostOffset at_;
    AlignedBuffer bytes_;
    std::uint32_t pins_ = 0;
    bool used_ = true;                   // since the sweep last came by
    bool loading_ = false, dirty_ = false, listed_ = false;
    bool forgotten_ = false;             // no longer part of the image
  };

  // Keeps a slice in memory.
  class Pin {
   public:
    Pin() = default;
    explicit Pin(Slice& slice) noexcept : slice_(&slice) { ++slice.pins_; }
    Pin(Pin&& o) noexcept : slice_(std::exchange(o.slice_, nullptr)) {}
    Pin& operator=(Pin&& o) noexcept {
      std::swap(slice_, o.slice_);
      return *this;
    }
    ~Pin() {
      if (slice_) --slice_->pins_;
    }
    Slice* operator->() const noexcept { return slice_; }
    Slice& operator*() const noexcept { return *slice_; }
    explicit operator bool() const noexcept { return slice_; }

   private:
    Slice* slice_ = nullptr;
  };

  // A slice that is read from the file is told as `load`.
  TableCache(Executor& executor, ImageFile& file, DebugEvent load, std::uint64_t slice_size, std::size_t slices_max);
  TableCache(const TableCache&) = delete;

  // The slice, when it is in memory.
  Slice* find(HostOffset at) noexcept {
    const auto found = slices_.find(at.value);
    if (found == slices_.end() || found->second->loading_) return nullptr;
    found->second->used_ = true;
    return found->second;
  }
  // The slice, read from the file when need be.  `at` is slice-aligned, inside the file.
  Task<Pin> get(HostOffset at);

  void changed(Slice& slice) {
    if (slice.forgotten_) return;
    slice.dirty_ = true;
    if (!std::exchange(slice.listed_, true)) dirty_.push_back(&slice);
  }
  // The clusters are no longer part of the image: nothing of them is written any more.
  void forget(Range host) noexcept;

  void forget_all() noexcept;
  // What was not used since this was called last is no longer kept.
  void drop_unused() noexcept;
  std::size_t slices() const noexcept { return all_.size(); }

  std::size_t dirty_slices() const noexcept { return dirty_.size(); }
  // So much is dirty that it should be written back before more is changed.
  bool pressed() const noexcept { return dirty_.size() > slices_max_ / 2; }

  bool dirty() const noexcept override { return !dirty_.empty(); }
  void take(std::vector<TableWrite>& writes) override;
  void settle(bool written) noexcept override;

 private:
  Task<> load(Slice& slice);
  void make_room() noexcept;

  ImageFile& file_;
  const DebugEvent load_;
  const std::size_t slice_size_, slices_max_;
  std::unordered_map<std::uint64_t, Slice*> slices_;
  std::vector<std::unique_ptr<Slice>> all_;      // in memory, forgotten ones too until they are idle
  std::size_t hand_ = 0;                         // of the sweep over all_
  std::vector<Slice*> dirty_;                    // listed_; some may have been forgotten since
  std::vector<Pin> taken_;
  Event loaded_;
};

}  // namespace tidemark::qcow2
