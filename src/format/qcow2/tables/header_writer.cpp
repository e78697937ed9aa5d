#include "format/qcow2/tables/header_writer.hpp"

namespace tidemark::qcow2 {

Task<> HeaderWriter::write_durably(HostOffset at, MutableBytes bytes) {
  co_await file_.write(at, bytes);
  co_await file_.flush();
}

Task<> HeaderWriter::write(std::uint64_t at, MutableBytes bytes) {
  const auto turn = co_await one_.lock();
  co_await write_alone(at, bytes);
}

Task<> HeaderWriter::write_alone(std::uint64_t at, MutableBytes bytes) {
  std::byte before[field_bytes_max];
  const HostOffset place{at};
  co_await write_or_restore(place, bytes, MutableBytes(before).first(bytes.size()));
}

// Of a write that failed it is not known what has become: the file is made to say again what the image in
// memory says.  It is owed the sync for that before anything that could only be found by the one header.
Task<> HeaderWriter::write_or_restore(HostOffset place, MutableBytes bytes, MutableBytes old) {
  co_await file_.read(place, old);
  const Result<> written = co_await write_durably(place, bytes).result();
  if (written) co_return;
  co_await unwrap(file_.intact());               // both say what is there
  const Result<> restored = co_await file_.write(place, old).result();
  if (!restored) (void)file_.corrupt("what its header says is not known: " + restored.error().message());
  file_.wrote(Stage::refcount_blocks);
  unsettled_ = true;
  (void)co_await flush().result();
  co_await written.error();
}

Task<> HeaderWriter::flush() {
  co_await file_.flush();
  unsettled_ = false;
}

Task<> HeaderWriter::sync_first() {
  if (syncs_first_) co_await file_.flush();
}

Task<> HeaderWriter::settle() {
  const auto turn = co_await one_.lock();
  if (unsettled_) co_await flush();
}

Task<> HeaderWriter::rest() {
  const auto turn = co_await one_.lock();
  unsettled_ = false;
}

// As much of the first cluster as says something, and the end marker.
Task<> HeaderWriter::rewrite(Header next) {
  const auto turn = co_await one_.lock();
  std::vector<std::byte> bytes = co_await unwrap(serialise_header(next));
  while (bytes.size() > 1024 && is_zero(Bytes(bytes).last(1024))) bytes.resize(bytes.size() - 512);
  std::vector<std::byte> old(bytes.size());
  const HostOffset start{};
  co_await write_or_restore(start, MutableBytes(bytes), MutableBytes(old));
  header_ = std::move(next);
}

Task<> HeaderWriter::write_u64(std::uint64_t at, std::uint64_t value) {
  std::byte bytes[8];
  store_be(bytes, value);
  co_await write(at, bytes);
}

// The two fields of a table are adjacent: one write changes both.
Task<> HeaderWriter::set_refcount_table(HostOffset at, std::uint32_t clusters) {
  co_await sync_first();
  std::byte bytes[12];
  store_be(bytes, at.value);
  store_be(bytes + 8, clusters);
  co_await write(HeaderField::refcount_table, bytes);
  header_.refcount_table_at = at;
  header_.refcount_table_clusters = clusters;
}

Task<> HeaderWriter::set_l1_table(HostOffset at, std::uint32_t entries) {
  co_await sync_first();
  std::byte bytes[12];
  store_be(bytes, entries);
  store_be(bytes + 4, at.value);
  co_await write(HeaderField::l1_entries, bytes);
  header_.l1_at = at;
  header_.l1_entries = entries;
}

Task<> HeaderWriter::set_tables(Header next) {
  co_await sync_first();
  std::byte bytes[field_bytes_max];
  const auto put = [&bytes](std::uint64_t at, auto value) { store_be(bytes + (at - HeaderField::size), value); };
  put(HeaderField::size, next.size);
  put(HeaderField::crypt_method, next.crypt_method);
  put(HeaderField::l1_entries, next.l1_entries);
  put(HeaderField::l1_at, next.l1_at.value);
  put(HeaderField::refcount_table, next.refcount_table_at.value);
  put(HeaderField::refcount_table + 8, next.refcount_table_clusters);
  put(HeaderField::refcount_table + 12, next.snapshots);
  put(HeaderField::refcount_table + 16, next.snapshots_at.value);
  std::size_t length = HeaderField::incompatible - HeaderField::size;
  if (next.geometry.version >= 3) {
    put(HeaderField::incompatible, next.incompatible);
    put(HeaderField::compatible, next.compatible);
    put(HeaderField::autoclear, next.autoclear);
    put(HeaderField::autoclear + 8, next.geometry.refcount_order);
    length = field_bytes_max;
  }
  co_await write(HeaderField::size, MutableBytes(bytes).first(length));
  header_ = std::move(next);
}

Task<> HeaderWriter::set_size(std::uint64_t size) {
  co_await write_u64(HeaderField::size, size);
  header_.size = size;
}

// Other features may change meanwhile: none is looked at before its turn.
Task<> HeaderWriter::set(Incompatible feature, bool on) {
  const auto turn = co_await one_.lock();
  const auto flag = static_cast<std::uint64_t>(feature);
  const std::uint64_t next = on ? header_.incompatible | flag : header_.incompatible & ~flag;
  co_await write_features(HeaderField::incompatible, header_.incompatible, next);
}

Task<> HeaderWriter::set(Autoclear feature, bool on) {
  const auto turn = co_await one_.lock();
  const auto flag = static_cast<std::uint64_t>(feature);
  const std::uint64_t next = on ? header_.autoclear | flag : header_.autoclear & ~flag;
  co_await write_features(HeaderField::autoclear, header_.autoclear, next);
}

Task<> HeaderWriter::keep_autoclear(std::uint64_t features) {
  const auto turn = co_await one_.lock();
  co_await write_features(HeaderField::autoclear, header_.autoclear, header_.autoclear & features);
}

Task<> HeaderWriter::set_autoclear(std::uint64_t mask, std::uint64_t features) {
  const auto turn = co_await one_.lock();
  co_await put_features(HeaderField::autoclear, header_.autoclear, (header_.autoclear & ~mask) | features);
}

Task<> HeaderWriter::write_features(std::uint64_t at, std::uint64_t& present, std::uint64_t next) {
  if (present != next) co_await put_features(at, present, next);
}

Task<> HeaderWriter::put_features(std::uint64_t at, std::uint64_t& present, std::uint64_t next) {
  std::byte bytes[8];
  store_be(bytes, next);
  co_await write_alone(at, bytes);
  present = next;
}

Task<> HeaderWriter::set_bitmap_directory(HostOffset at, std::uint64_t bytes, std::uint32_t bitmaps) {
  co_await sync_first();
  const auto turn = co_await one_.lock();
  Header next = header_;
  next.has_bitmaps = bitmaps != 0;
  next.bitmaps = bitmaps;
  next.bitmap_directory_at = at;
  next.bitmap_directory_bytes = bytes;
  HeaderEdit edit = co_await HeaderEdit::read(file_.edge());
  std::optional<std::vector<std::byte>> extension;
  if (next.has_bitmaps) extension = bitmaps_extension(next);
  edit.set_extension(ExtensionType::bitmaps, std::move(extension));
  co_await write_edit(std::move(edit));
  header_ = std::move(next);
}

Task<> HeaderWriter::set_backing(std::string name, std::string format) {
  const auto turn = co_await one_.lock();
  HeaderEdit edit = co_await HeaderEdit::read(file_.edge());
  if (!name.empty()) {
    std::optional<std::vector<std::byte>> said;
    if (!format.empty()) said.emplace(as_bytes(format).begin(), as_bytes(format).end());
    edit.set_extension(ExtensionType::backing_format, std::move(said));
  }
  edit.set_backing_name(name);
  co_await write_edit(std::move(edit));
  header_.backing_format = name.empty() ? std::string() : std::move(format);
  header_.backing_name = std::move(name);
}

Task<> HeaderWriter::write_edit(HeaderEdit edit) {
  co_await unwrap(file_.intact());
  const Result<> written = co_await edit.write(file_.edge()).result();
  co_await unwrap(file_.intact());
  if (written) co_return;
  const Result<> restored = co_await edit.restore(file_.edge()).result();
  if (!restored) (void)file_.corrupt("what its header says is not known: " + restored.error().message());
  unsettled_ = true;
  (void)co_await flush().result();
  co_await written.error();
}

}  // namespace tidemark::qcow2
