#include "app/cli/image/format_options.hpp"

#include <charconv>

#include <fmt/format.h>

#include "app/cli/text.hpp"
#include "schema/keyval.hpp"

namespace tidemark::cli {
namespace {

Error bad(std::string_view key, std::string_view expects) {
  return Error(Errc::invalid_argument, fmt::format("Parameter '{}' expects {}", key, expects));
}

Result<std::uint64_t> size_of(std::string_view key, const std::string& text) {
  std::uint64_t bytes = 0;
  if (!parse_size(text, bytes)) return bad(key, "a size, for instance 512K or 1.5G");
  return bytes;
}

Result<bool> flag_of(std::string_view key, const std::string& text) {
  if (text == "on" || text == "yes" || text == "true") return true;
  if (text == "off" || text == "no" || text == "false") return false;
  return bad(key, "'on' or 'off'");
}

Result<std::uint32_t> number_of(std::string_view key, const std::string& text) {
  std::uint32_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return bad(key, "a number");
  return number;
}

template <class T, class To>
Result<> assign(Result<T> value, To& to) {
  if (!value) return value.error();
  to = *value;
  return {};
}

Result<std::uint32_t> version_of(const std::string& value) {
  if (value == "0.10" || value == "v2") return 2u;
  if (value == "1.1" || value == "v3") return 3u;
  return Error(Errc::invalid_argument, fmt::format("Invalid compatibility level: '{}'", value));
}

// What QEMU takes and nothing here does.
Result<> check_known(const std::string& key, const Json& value) {
  const bool off = value.is_string() && (value.as_string() == "off" || value.as_string() == "no" || value.as_string() == "false");
  if (key == "nocow" && !off)
    return Error(Errc::unsupported, "nocow is not supported; set it for the directory with chattr +C, and new files have it");
  if ((key == "encryption" && !off) || key == "encrypt") return Error(Errc::unsupported, "encryption is not supported");
  if (key == "nocow" || key == "encryption") return {};
  return Error(Errc::invalid_argument, fmt::format("Invalid parameter '{}'", key));
}

Result<> set_compression(const std::string& value, Qcow2CreateOptions& to) {
  if (value == "zlib") to.compression = qcow2::CompressionType::zlib;
  else if (value == "zstd") to.compression = qcow2::CompressionType::zstd;
  else return bad("compression_type", "'zlib' or 'zstd'");
  return {};
}

Result<> set_qcow2(const std::string& key, const std::string& value, FormatOptions& out) {
  Qcow2CreateOptions& to = out.qcow2;
  if (key == "size") return assign(size_of(key, value), to.size);
  if (key == "cluster_size") return assign(size_of(key, value), to.cluster_size);
  if (key == "compat") return assign(version_of(value), to.version);
  if (key == "refcount_bits") return assign(number_of(key, value), to.refcount_bits);
  if (key == "lazy_refcounts") return assign(flag_of(key, value), to.lazy_refcounts);
  if (key == "compression_type") return set_compression(value, to);
  if (key == "backing_file") return assign(Result<std::string>(value), to.backing_file);
  if (key == "backing_fmt") return assign(Result<std::string>(value), to.backing_format);
  if (key == "preallocation") return assign(parse_preallocation(value), to.preallocation);
  if (key == "extended_l2") return assign(flag_of(key, value), to.extended_l2);
  if (key == "data_file") return assign(Result<std::string>(value), to.data_file);
  if (key == "data_file_raw") return assign(flag_of(key, value), to.data_file_raw);
  return check_known(key, value);
}

Result<> set_raw(const std::string& key, const std::string& value, FormatOptions& out) {
  if (key == "size") return assign(size_of(key, value), out.qcow2.size);
  if (key != "preallocation") return check_known(key, value);
  if (value == "off") out.preallocation = FilePreallocation::off;
  else if (value == "falloc") out.preallocation = FilePreallocation::falloc;
  else if (value == "full") out.preallocation = FilePreallocation::full;
  else return bad(key, "'off', 'falloc' or 'full'");
  return {};
}

template <class T>
Result<> assign(Result<T> value, std::optional<T>& to) {
  if (!value) return value.error();
  to = *std::move(value);
  return {};
}

Result<> set_amended(const std::string& key, const std::string& value, Qcow2AmendOptions& to) {
  if (key == "compat") return assign(version_of(value), to.version);
  if (key == "refcount_bits") return assign(number_of(key, value), to.refcount_bits);
  if (key == "lazy_refcounts") return assign(flag_of(key, value), to.lazy_refcounts);
  if (key == "backing_file") return assign(Result<std::string>(value), to.backing_file);
  if (key == "backing_fmt") return assign(Result<std::string>(value), to.backing_format);
  if (key == "data_file") return assign(Result<std::string>(value), to.data_file);
  if (key == "data_file_raw") return assign(flag_of(key, value), to.data_file_raw);
  if (key == "size") return Error(Errc::invalid_argument, "Parameter 'size' cannot be amended; use tidemark image resize");
  FormatOptions made;
  if (auto known = set_qcow2(key, value, made); !known) return known;
  return Error(Errc::invalid_argument, fmt::format("Parameter '{}' cannot be amended; it is decided when an image is made", key));
}

}  // namespace

Result<Qcow2Preallocation> parse_preallocation(const std::string& word) {
  if (word == "off") return Qcow2Preallocation::off;
  if (word == "metadata") return Qcow2Preallocation::metadata;
  if (word == "falloc") return Qcow2Preallocation::falloc;
  if (word == "full") return Qcow2Preallocation::full;
  return bad("preallocation", "'off', 'metadata', 'falloc' or 'full'");
}

Result<Qcow2AmendOptions> parse_amend_options(const std::string& text) {
  Qcow2AmendOptions options;
  const auto parsed = schema::parse_keyval(text);
  if (!parsed) return parsed.error();
  for (const auto& [key, value] : parsed->as_object()) {
    if (!value.is_string()) return check_known(key, value).error();
    if (auto set = set_amended(key, value.as_string(), options); !set) return set.error();
  }
  return options;
}

Result<FormatOptions> parse_format_options(const std::string& format, const std::string& text) {
  FormatOptions options;
  if (format != "raw" && format != "qcow2") return Error(Errc::invalid_argument, fmt::format("Unknown file format '{}'", format));
  if (text.empty()) return options;
  const auto parsed = schema::parse_keyval(text);
  if (!parsed) return parsed.error();
  for (const auto& [key, value] : parsed->as_object()) {
    if (!value.is_string()) return check_known(key, value).error();
    const Result<> set = format == "raw" ? set_raw(key, value.as_string(), options) : set_qcow2(key, value.as_string(), options);
    if (!set) return set.error();
  }
  return options;
}

}  // namespace tidemark::cli
