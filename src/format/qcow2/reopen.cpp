// An open image is only read from now on, or written too.
//
// Invariant: an image that is only read is as one that was closed; one that is to be written has been looked at as if it were
// opened.
#include <tuple>

#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

Task<> Qcow2Driver::set_read_only(bool read_only) {
  if (read_only == read_only_) co_return;
  if (read_only) {
    co_await complete();
    read_only_ = true;
    co_return;
  }
  if (shows_snapshot_) co_await Error(Errc::invalid_argument, "qcow2: a snapshot can only be opened read-only");
  co_await unwrap(check_supported(header_, false));
  if (image_.corruption()) co_await *image_.corruption();
  if (header_.has(Incompatible::dirty)) header_ = co_await read_repaired(*file_, options_);
  read_only_ = false;
  const Result<> ready = co_await watch(prepare_again()).result();
  if (!ready) read_only_ = true;
  co_await unwrap(ready);
}

Result<> Qcow2Driver::check_change(const Qcow2OpenOptions& options) const {
  if (auto ok = check_options(header_, options); !ok) return ok;
  const bool same_caches = options.caches.total == options_.caches.total && options.caches.l2 == options_.caches.l2 &&
                           options.caches.refcount == options_.caches.refcount && options.l2_slice_bytes == options_.l2_slice_bytes;
  if (!same_caches) return Error(Errc::unsupported, "Cannot change the sizes of caches of an image that is open");
  if (options.overlap_checks != options_.overlap_checks)
    return Error(Errc::unsupported, "Cannot change the option 'overlap-check'");
  return {};
}

Task<> Qcow2Driver::change_options(Qcow2OpenOptions options) {
  co_await unwrap(check_change(options));
  const bool lazy = options.lazy_refcounts.value_or(header_.has(Compatible::lazy_refcounts)) && header_.geometry.version >= 3;
  if (lazy_ && !lazy && !read_only_) {
    co_await flush();
    co_await end_lazily();
    committer_.postpone(0);                              // an image that is not dirty, too
  }
  if (lazy && !lazy_ && !read_only_) {
    // It is marked before its next change, not for those that were made.
    co_await flush();
    co_await committer_.flush();
    committer_.postpone(bit(Stage::refcount_blocks));
  }
  lazy_ = lazy;
  keeps_discarded_ = options.discard_no_unref;
  cache_clean_interval_ = options.cache_clean_interval;
  pass_discards_ = options.pass_discards;
  refcounts_.pass_discards(options.pass_discards);
  options_.pass_discards = options.pass_discards;
  options_.lazy_refcounts = options.lazy_refcounts;
  options_.discard_no_unref = options.discard_no_unref;
  options_.cache_clean_interval = options.cache_clean_interval;
}

// A flush may be under way, of nobody's who uses it; none that begins from here on writes anything.
Task<> Qcow2Driver::open_anew() {
  co_await BlockDriver::open_anew();
  if (read_only_ || !image_.loss()) co_return;
  if (image_.corruption()) co_await *image_.corruption();
  co_await committer_.rest();
  co_await header_writer_.rest();
  if (data_file_) co_await data_file_->flush();
  co_await file_->flush();
  Header header = co_await read_header(*file_);
  co_await unwrap(check_supported(header, false));
  co_await unwrap(check_same(header));
  if (header.has(Incompatible::dirty)) header = co_await read_repaired(*file_, options_);
  const Error loss = *image_.loss();
  const Result<> ready = co_await watch(read_anew(std::move(header))).result();
  if (!ready) image_.lose(loss);
  if (BlockNode* node = file_->parent()) node->graph().content_replaced(*node);
  co_await unwrap(ready);
}

void Qcow2Driver::lose(std::string_view why) {
  if (image_.loss()) return;
  image_.lose(Error(Errc::io, "qcow2: nothing more is written to the image '" + file_->node().name() + "' until it is opened anew "
                              "(blockdev-reopen): " + std::string(why), EIO));
  given_up_ = true;
}

// What it shows, and what stands on it, relies on what the present header says; with another name below it is the same.
Result<> Qcow2Driver::check_same(const Header& now) const {
  const auto shape = [](const Header& h) {
    const Geometry& g = h.geometry;
    return std::tuple(h.size, h.l1_at, h.l1_entries, h.snapshots, h.snapshots_at, g.version, g.cluster_bits, g.refcount_order,
                      g.extended_l2, g.external_data, h.compression);
  };
  if (shape(now) == shape(header_)) return {};
  return Error(Errc::busy, "qcow2: a change of the header of image '" + file_->node().name() + "' was under way when it was lost: remove "
                           "the node, and add it again");
}

// Nothing is dirty in memory any more when the image may be written.
Task<> Qcow2Driver::read_anew(Header header) {
  co_await refcounts_.forget_frees();
  image_.forget_use();
  header.geometry = header_.geometry;
  header_ = std::move(header);
  co_await refcounts_.load(header_.refcount_table_at, header_.refcount_table_clusters);
  co_await prepare_again();
}

// Nothing else has changed the image meanwhile, but what is metadata is known only of one that is written.
Task<> Qcow2Driver::prepare_again() {
  image_.forget_metadata();
  map_.l2().forget_all();
  co_await map_.load(header_);
  committer_.postpone(lazy_ ? bit(Stage::refcount_blocks) : StageSet{0});    // it may have been changed meanwhile
  co_await prepare_to_write();
}

}  // namespace tidemark
