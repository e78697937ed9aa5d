// The options of a format, as -o KEY=VALUE,... gives them, under QEMU's names.
#pragma once

#include <string>

#include "format/qcow2/driver.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {

struct FormatOptions {
  Qcow2CreateOptions qcow2;
  FilePreallocation preallocation = FilePreallocation::off;      // of raw files
};

// `text`: cluster_size=64k,compat=1.1,...  Errors name the option.
Result<FormatOptions> parse_format_options(const std::string& format, const std::string& text);

// What can change in a qcow2 image that exists.
Result<Qcow2AmendOptions> parse_amend_options(const std::string& text);

// off, metadata, falloc or full.
Result<Qcow2Preallocation> parse_preallocation(const std::string& word);

}  // namespace tidemark::cli
