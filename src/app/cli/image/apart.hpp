// Whether a target that is written in place is what the source is read from, by another name: what can be known of that without
// writing to it.  Whoever ends the program meanwhile finds both as they were.
#pragma once

#include <vector>

#include "app/cli/context.hpp"
#include "app/cli/image/session.hpp"
#include "io/writers.hpp"

namespace tidemark::cli {

class Apart {
 public:
  // What the session has open now is the sources'.
  Apart(const Context& context, Session& session);

  // Who can write to the sources at this moment.  Where nobody does, no server or device does it for us.
  Task<Writers> writers();

  // One that the target reads as, from its first byte to the end of the shorter; null: none.  Disks before what they are made of.
  Task<BlockNode*> find_alike(Edge& target);

  // One of the same server as one that was opened since, by any name of this host, and the same export; empty: none.
  Task<std::string> find_same_export();

 private:
  bool is_source(const BlockNode& node) const;
  Task<bool> read_alike(Edge& source, Edge& target);
  Task<bool> piece_alike(Edge& source, Edge& target, Range piece);

  const Context& context_;
  Session& session_;
  std::vector<BlockNode*> sources_;
};

}  // namespace tidemark::cli
