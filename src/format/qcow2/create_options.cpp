#include "format/qcow2/create_options.hpp"

#include <cerrno>

namespace tidemark::qcow2 {
namespace {

Error bad_option(std::string message) { return Error(Errc::invalid_argument, std::move(message)); }

// What version 2 cannot be.
Result<> check_version(const Qcow2CreateOptions& o) {
  if (o.version < 2 || o.version > 3) return bad_option("qcow2: version must be 2 or 3");
  const struct {
    bool wanted;
    const char* refusal;
  } newer[] = {
      {o.refcount_bits != 16, "Different refcount widths than 16 bits require compatibility level 1.1 or above"},
      {o.lazy_refcounts, "Lazy refcounts only supported with compatibility level 1.1 and above"},
      {o.compression != CompressionType::zlib,
       "Non-zlib compression type is only supported with compatibility level 1.1 and above"},
      {o.extended_l2, "Extended L2 entries are only supported with compatibility level 1.1 and above"},
      {!o.data_file.empty(), "External data files are only supported with compatibility level 1.1 and above"},
  };
  for (const auto& feature : newer)
    if (feature.wanted && o.version < 3) return bad_option(std::string(feature.refusal) + " (use version=v3 or greater)");
  return {};
}

Result<> check_backing(const Qcow2CreateOptions& o) {
  if (o.backing_file.empty() && !o.backing_format.empty())
    return bad_option("Backing format cannot be used without backing file");
  if (o.backing_file.size() > name_bytes_max) return bad_option("Backing file name too long");
  if (o.backing_file.empty()) return {};
  if (o.data_file_raw) return bad_option("Backing file and data-file-raw cannot be used at the same time");
  if (o.preallocation != Qcow2Preallocation::off && !o.extended_l2)
    return bad_option("Backing file and preallocation can only be used at the same time if extended_l2 is on");
  return {};
}

}  // namespace

Result<> check(const Qcow2CreateOptions& o) {
  if (!is_power_of_two(o.cluster_size) || o.cluster_size < 512 || o.cluster_size > 2 * MiB)
    return bad_option("Cluster size must be a power of two between 512 and 2048k");
  if (!is_aligned(o.size, sector_size)) return bad_option("Image size must be a multiple of 512 bytes");
  if (!is_power_of_two(o.refcount_bits) || o.refcount_bits > 64)
    return bad_option("Refcount width must be a power of two and may not exceed 64 bits");
  if (auto ok = check_version(o); !ok) return ok;
  if (o.extended_l2 && o.cluster_size < std::uint64_t{1} << extended_l2_cluster_bits_min)
    return bad_option("Extended L2 entries are only supported with cluster sizes of at least 16384 bytes");
  if (o.data_file_raw && o.data_file.empty()) return bad_option("data-file-raw requires data-file");
  if (o.data_file.size() > name_bytes_max) return bad_option("Data file name too long");
  if (auto ok = check_backing(o); !ok) return ok;
  Geometry g;
  g.cluster_bits = log2_of(o.cluster_size);
  g.extended_l2 = o.extended_l2;
  if (o.size > offset_limit || l1_entries_for(g, o.size) * entry_bytes > l1_bytes_max)
    return Error(Errc::no_space, "The image size is too large for file format 'qcow2' "
                                 "(try using a larger cluster size)", EFBIG);
  return {};
}

Header header_of(const Qcow2CreateOptions& o) {
  Header h;
  h.geometry.version = o.version;
  h.geometry.cluster_bits = log2_of(o.cluster_size);
  h.geometry.refcount_order = log2_of(o.refcount_bits);
  h.geometry.extended_l2 = o.extended_l2;
  h.geometry.external_data = !o.data_file.empty();
  h.size = o.size;
  h.l1_entries = static_cast<std::uint32_t>(l1_entries_for(h.geometry, o.size));
  h.compression = o.compression;
  h.set(Incompatible::compression, o.compression != CompressionType::zlib);
  h.set(Incompatible::extended_l2, o.extended_l2);
  h.set(Incompatible::data_file, !o.data_file.empty());
  h.set(Compatible::lazy_refcounts, o.lazy_refcounts);
  h.set(Autoclear::data_file_raw, o.data_file_raw);
  h.backing_name = o.backing_file;
  h.backing_format = o.backing_format;
  h.data_file = o.data_file;
  return h;
}

}  // namespace tidemark::qcow2
