// What there is to know of a chain, of a running daemon or of files: as query-chain-cost tells it.
#pragma once

#include "app/cli/chain/commands.hpp"

namespace tidemark::cli {

// `layers` are to be removed.  Each of the layers that are told has a member "layer": what people call it, as below.
Task<Json> look_at_chain(const Context& context, const ChainName& chain, const std::vector<std::string>& layers);

// The base is on the left, as everywhere where chains are drawn; the nodes that are `gone` are left out.
std::string chain_picture(const Json::Array& layers, const std::vector<std::string>& gone);

// As the header of one image is to name another.
std::string name_seen_from(const std::string& file, const std::string& other);

// Which layer of an answer is meant:
//   1, [1], vda[1]      the first one below the top, which is 0; as libvirt counts, vda being the chain's top
//   a node's name, the name of a file as it is told, or the last part of one that no other layer has
// A number that is another layer's name is refused; vda[1] is always a number.
Result<std::size_t> find_layer(const Json& layers, const ChainName& chain, const std::string& word);

// "vda[1]", or "[1]" of files.
std::string layer_name(const ChainName& chain, std::size_t layer);

}  // namespace tidemark::cli
