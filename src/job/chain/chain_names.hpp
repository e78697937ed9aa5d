// The name of a backing file, as a job writes it into the header of the image above.
#pragma once

#include <optional>
#include <string>

#include "job/chain/chain_access.hpp"

namespace tidemark {

struct BackingName {
  std::string name, format;              // empty: there is none
  bool operator==(const BackingName&) const = default;
};

// Of `base` for `overlay`, a format; null for none.  `given` is the user's word for it.  `mask_protocol` has "raw" where
// the base is a storage with no format.  Errc::invalid_argument when the base has no name.  `access` null: the file's name.
Task<BackingName> backing_name(BlockNode& overlay, BlockNode* base, std::optional<std::string> given, bool mask_protocol,
                               ChainAccess* access);

}  // namespace tidemark
