// What a new image is to be: the options checked as QEMU checks them, and the header they make.
#pragma once

#include "format/qcow2/driver.hpp"

namespace tidemark::qcow2 {

Result<> check(const Qcow2CreateOptions& options);

// All but where its tables lie.
Header header_of(const Qcow2CreateOptions& options);

}  // namespace tidemark::qcow2
