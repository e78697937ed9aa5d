#include "format/qcow2/header_writer.hpp"

namespace tidemark::qcow2 {

Task<> HeaderWriter::write(std::uint64_t at, MutableBytes bytes) {
  const auto turn = co_await one_.lock();
  const HostOffset place{at};
  co_await file_.write(place, bytes);
  co_await file_.flush();
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

Task<> HeaderWriter::set_incompatible(std::uint64_t features) {
  co_await write_u64(HeaderField::incompatible, features);
  header_.incompatible = features;
}

Task<> HeaderWriter::set_autoclear(std::uint64_t features) {
  co_await write_u64(HeaderField::autoclear, features);
  header_.autoclear = features;
}

}  // namespace tidemark::qcow2
