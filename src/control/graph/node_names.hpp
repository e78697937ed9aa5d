// The names in a description of nodes: what it would make, and what it refers to.
#pragma once

#include <string>
#include <vector>

#include "schema/node.hpp"

namespace tidemark {

struct NodeNames {
  std::vector<std::string> made, used;
};

NodeNames names_in(const schema::BlockdevOptions& options);
NodeNames names_in(const schema::BlockdevRef& reference);

}  // namespace tidemark
