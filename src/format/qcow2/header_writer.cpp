#include "format/qcow2/header_writer.hpp"

namespace tidemark::qcow2 {

Task<> HeaderWriter::write_durably(HostOffset at, MutableBytes bytes) {
  co_await file_.write(at, bytes);
  co_await file_.flush();
}

Task<> HeaderWriter::write(std::uint64_t at, MutableBytes bytes) {
  const auto turn = co_await one_.lock();
  co_await write_alone(at, bytes);
}

// Of a write that failed it is not known what has become: the file is made to say again what the image in
// memory says.  It is owed the sync for that before anything that could only be found by the one header.
Task<> HeaderWriter::write_alone(std::uint64_t at, MutableBytes bytes) {
  const HostOffset place{at};
  std::byte before[field_bytes_max];
  const MutableBytes old = MutableBytes(before).first(bytes.size());
  co_await file_.read(place, old);
  const Result<> written = co_await write_durably(place, bytes).result();
  if (written) co_return;
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

Task<> HeaderWriter::settle() {
  const auto turn = co_await one_.lock();
  if (unsettled_) co_await flush();
}

Task<> HeaderWriter::write_u64(std::uint64_t at, std::uint64_t value) {
  std::byte bytes[8];
  store_be(bytes, value);
  co_await write(at, bytes);
}

// The two fields of a table are adjacent: one write changes both.
Task<> HeaderWriter::set_refcount_table(HostOffset at, std::uint32_t clusters) {
  std::byte bytes[12];
  store_be(bytes, at.value);
  store_be(bytes + 8, clusters);
  co_await write(HeaderField::refcount_table, bytes);
  header_.refcount_table_at = at;
  header_.refcount_table_clusters = clusters;
}

Task<> HeaderWriter::set_l1_table(HostOffset at, std::uint32_t entries) {
  std::byte bytes[12];
  store_be(bytes, entries);
  store_be(bytes + 4, at.value);
  co_await write(HeaderField::l1_entries, bytes);
  header_.l1_at = at;
  header_.l1_entries = entries;
}

Task<> HeaderWriter::set_size(std::uint64_t size) {
  co_await write_u64(HeaderField::size, size);
  header_.size = size;
}

// Other features may change meanwhile: none is looked at before its turn.
Task<> HeaderWriter::set(Incompatible feature, bool on) {
  const auto turn = co_await one_.lock();
  const auto flag = static_cast<std::uint64_t>(feature);
  const std::uint64_t features = on ? header_.incompatible | flag : header_.incompatible & ~flag;
  std::byte bytes[8];
  store_be(bytes, features);
  co_await write_alone(HeaderField::incompatible, bytes);
  header_.incompatible = features;
}

Task<> HeaderWriter::set_autoclear(std::uint64_t features) {
  co_await write_u64(HeaderField::autoclear, features);
  header_.autoclear = features;
}

}  // namespace tidemark::qcow2
