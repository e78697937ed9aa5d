// The client's part of the NBD handshake: from a connected socket to the terms of transmission.
//
// Asks for the most that this client can use (extended headers, else structured replies;
// base:allocation; block sizes) and takes what the server grants.  What the server sends is bounded:
// every message, and how many there may be.
#pragma once

#include <algorithm>
#include <optional>
#include <string>

#include "io/socket.hpp"
#include "nbd/option.hpp"

namespace tidemark {

struct NbdTerms {
  nbd::Headers headers = nbd::Headers::simple;
  nbd::ExportInfo info;
  nbd::BlockSizes sizes;
  bool sizes_known = false;                  // the server told them: they are to be kept
  std::optional<std::uint32_t> allocation;   // the id of base:allocation

  // What requests are multiples of, and how much data one has at most.
  std::uint32_t unit() const noexcept { return sizes_known ? sizes.minimum : 512; }
  std::uint32_t data_max() const noexcept {
    const std::uint32_t most = std::min(sizes.maximum_payload, nbd::payload_size_max);
    return std::max(static_cast<std::uint32_t>(align_down(most, unit())), unit());
  }
};

Task<NbdTerms> nbd_shake_hands(Socket& socket, std::string export_name, CancelToken token);

}  // namespace tidemark
