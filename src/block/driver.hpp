// BlockDriver: what a storage, a format or a filter is.  No policy and no bookkeeping: requests come
// not empty, aligned to limits(), split, and inside size() rounded up to a sector and to
// request_align; dirtiness, drain, permissions and statistics are the node's (block/node.hpp).
//
// A driver owns the edges to its children and lists them in edges().  Requests run side by side;
// a driver orders what it must.  All calls on the home reactor's thread, which may become another one
// between two requests: what waits is made with home(), never with a Reactor that was kept.
#pragma once

#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include "block/debug_event.hpp"
#include "block/types.hpp"
#include "io/buffers.hpp"
#include "io/home.hpp"
#include "io/page_cache.hpp"
#include "task/task.hpp"

namespace tidemark {

class Edge;

// What an image says contradicts itself.
struct ImageCorruption {
  std::string message;
  bool fatal = false;                                       // it is not written any more
};

class BlockDriver {
 public:
  BlockDriver() = default;                                  // at home once it has a node
  explicit BlockDriver(Reactor& reactor) noexcept : home_(reactor) {}
  virtual ~BlockDriver() = default;

  Home& home() noexcept { return home_; }
  // Once in its life, on its thread; errors tell it, too.
  using CorruptionListener = std::function<void(const ImageCorruption&)>;
  void listen_to_corruption(CorruptionListener listener) { corruption_listener_ = std::move(listener); }
  // To another thread, while nothing is in flight: before, on the old one, and after, on the new one,
  // which is home() by then.  For what is bound to a thread otherwise.
  virtual void leave() noexcept {}
  virtual void arrive() noexcept {}
  // A thread that its requests go by besides its home, and that outlives it.
  virtual const Reactor* bound_to() const noexcept { return nullptr; }

  virtual std::string_view name() const noexcept = 0;       // qapi: BlockdevDriver
  virtual std::uint64_t size() const noexcept = 0;          // bytes
  virtual BlockLimits limits() const noexcept { return {}; }
  virtual bool is_filter() const noexcept { return false; } // shows its Role::filtered child's content
  // Whether closing makes durable what was written: not where another program keeps it, which may not answer.
  virtual bool flush_at_close() const noexcept { return edges().empty(); }
  virtual bool supports_fua() const noexcept { return false; }   // else the node flushes after the write
  virtual std::vector<Edge*> edges() const { return {}; }
  // What QEMU's users call one of them.
  virtual std::string_view child_name(const Edge& child) const noexcept;
  // What who stands on it is about to do, or the node with a write that it completes.
  virtual void told(DebugEvent) {}

  // What this driver's node uses of and shares on a child, given what the node's own users use and
  // share.  The default suits formats (file, data-file, backing) and filters.
  virtual Permissions child_permissions(const Edge& child, Permissions node, bool writable) const;

  // The first extent from wanted.offset: 0 < length <= wanted.length.
  virtual Task<Extent> map(Range wanted) = 0;

  virtual Task<> read(std::uint64_t offset, Buffers into) = 0;
  virtual Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) = 0;
  // Errc::unsupported: the node writes zeroes itself, unless no_fallback.
  virtual Task<> write_zeroes(Range range, WriteFlags flags);
  // Advisory; Errc::unsupported is ignored by the node.
  virtual Task<> discard(Range range);
  // Completed writes are durable afterwards, down to the device.
  virtual Task<> flush() = 0;
  // Whether a flush that failed so may have dropped what was written, whatever the next one says; what is below tells for itself.
  virtual bool lost_by(const Error&) const noexcept { return edges().empty(); }
  // It has lost something by such a flush, and is to be opened anew before it is what it was.
  virtual bool lost() noexcept { return false; }
  // What a flush that failed has lost is given up: it shows what is stored, and is written again.  Nobody uses it meanwhile; fails
  // where nothing can be made durable yet.  The default goes on to what it stands on, as write_back() does.
  virtual Task<> open_anew();
  // Advice: what was written may begin to become durable; returns without waiting for that.
  virtual Task<> write_back(PageCache after);
  // Writes whole clusters, or up to the end, compressed, where the format can.
  virtual bool supports_compression() const noexcept { return false; }
  virtual Task<> write_compressed(std::uint64_t offset, Buffers from);
  virtual Task<> truncate(std::uint64_t size, Growth growth = Growth::zeroes);
  // How large the device is by now whose own disk this shows; none where it shows no device's.  The default is that of a filter.
  virtual Task<std::optional<std::uint64_t>> device_size();
  // From now on it is only read, or written too, while nothing is in flight; what it stands on can be written then and until
  // then (Graph::set_read_only).  On error it is as it was.
  virtual Task<> set_read_only(bool) { co_return; }
  // The last of those who may write to it has gone, or may no longer; who comes next is another.  Nobody waits for what follows.
  virtual void writers_gone() noexcept {}
  // While it is only read: other programs may use what it is stored in from here on; or no longer, and it looks at that anew.
  virtual Task<> set_active(bool) { co_return; }

  // Where the edge to the backing file is, or would be; null where there can be none.  For Graph::set_backing.
  virtual std::unique_ptr<Edge>* backing_place() noexcept { return nullptr; }
  // What the image's own header says of its backing file; an empty name: that it has none.  Durable when it returns.
  virtual Task<> write_backing_name(std::string name, std::string format);

  // Requests in flight that wait for a peer, which may never answer, end soon, with Errc::cancelled.
  virtual Task<> cancel_in_flight() { co_return; }
  virtual Task<ImageInfo> info() = 0;
  virtual Task<> close() = 0;                               // flushes what it holds, lets go of its edges

 protected:
  // What of a request is in the disk, whole sectors: behind them is the node's padding, which a driver does not hand on to a node.
  // One that begins there is for others to refuse.
  std::uint64_t in_disk(std::uint64_t offset, std::uint64_t length) const noexcept {
    const std::uint64_t end = align_up(size(), sector_size);
    return offset < end && length > end - offset ? end - offset : length;
  }
  Range in_disk(Range range) const noexcept { return {range.offset, in_disk(range.offset, range.length)}; }

  void tell_corruption(const ImageCorruption& corruption) {
    if (const auto listener = std::exchange(corruption_listener_, nullptr)) listener(corruption);
  }

 private:
  Home home_;
  CorruptionListener corruption_listener_;
};

}  // namespace tidemark
