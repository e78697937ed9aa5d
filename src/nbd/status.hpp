// Between the protocol's error numbers, errno and Error.
#pragma once

#include "base/error.hpp"
#include "nbd/protocol.hpp"

namespace tidemark::nbd {

// What a server answers for `error`.  The document allows overflow and not_supported only where a
// command names them, so neither comes out of this.
Status status_of(const Error& error) noexcept;

// A client's view of an error field: a number the document does not know counts as invalid.
Status known_status(std::uint32_t field) noexcept;
int to_errno(Status status) noexcept;

// The document's text, without a full stop.
std::string_view to_string(Status status) noexcept;

}  // namespace tidemark::nbd
