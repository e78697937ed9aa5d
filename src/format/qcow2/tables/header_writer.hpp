// HeaderWriter: changes an open image's header in place, one change at a time, so that what it does not know of the
// header stays as it was.  All that writes the header of an open image does it here; extensions it changes by HeaderEdit.
#pragma once

#include "format/qcow2/layout/header_edit.hpp"
#include "format/qcow2/tables/image_file.hpp"
#include "task/sync.hpp"

namespace tidemark::qcow2 {

class HeaderWriter {
 public:
  HeaderWriter(Executor& executor, ImageFile& file, Header& header, const WriteOrder& order)
      : file_(file), header_(header), one_(executor), syncs_first_(order.must_precede(Stage::l1_table, Stage::header)) {}

  // Each writes and syncs, and changes the header in memory when that succeeded.  Else the file says what
  // it said before, durably once a sync succeeds; if it cannot be made to, the image is refused further writes.
  // What it points at from then on has been written before the call, and is durable before the header is written.
  Task<> set_refcount_table(HostOffset at, std::uint32_t clusters);
  Task<> set_l1_table(HostOffset at, std::uint32_t entries);
  Task<> set_size(std::uint64_t size);
  // The header becomes `next`, names and features too.
  Task<> rewrite(Header next);
  // Size, L1 table, refcount table and snapshots become those of `next`, and in version 3 features and the width of
  // refcounts, by one write within a sector.
  Task<> set_tables(Header next);
  Task<> set(Incompatible feature, bool on);
  Task<> set(Autoclear feature, bool on);
  // The others are switched off.
  Task<> keep_autoclear(std::uint64_t features);
  // Those of the mask become these.  Written, and durable, even where the header says so already: that may be in the page cache
  // alone, of an opening whose flush failed.
  Task<> set_autoclear(std::uint64_t mask, std::uint64_t features);
  // The bitmaps extension becomes what this says; without bitmaps it goes.
  Task<> set_bitmap_directory(HostOffset at, std::uint64_t bytes, std::uint32_t bitmaps);
  // A crash leaves the old name or the new one, of a format whose name has at most eight letters.  Where there is none
  // any more the extension with its format stays, and says nothing: others would have to move.
  Task<> set_backing(std::string name, std::string format);
  // What a change that failed would have made the header point at is not used by it from here on.
  Task<> settle();
  // No change is under way any more, and who asks makes durable what the file says.
  Task<> rest();

 private:
  static constexpr std::size_t field_bytes_max = 76;
  Task<> write_or_restore(HostOffset place, MutableBytes bytes, MutableBytes old);
  Task<> write_durably(HostOffset at, MutableBytes bytes);
  Task<> write(std::uint64_t at, MutableBytes bytes);
  Task<> flush();
  Task<> sync_first();
  Task<> write_alone(std::uint64_t at, MutableBytes bytes);
  Task<> write_u64(std::uint64_t at, std::uint64_t value);
  Task<> write_features(std::uint64_t at, std::uint64_t& present, std::uint64_t next);
  Task<> put_features(std::uint64_t at, std::uint64_t& present, std::uint64_t next);
  Task<> write_edit(HeaderEdit edit);

  ImageFile& file_;
  Header& header_;
  Mutex one_;
  const bool syncs_first_;
  bool unsettled_ = false;                       // what the file says of late may not be durable
};

}  // namespace tidemark::qcow2
