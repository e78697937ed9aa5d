// NodeAccess: how block jobs have nodes made writable, and read-only again, and their bitmaps brought along.
#pragma once

#include "block/graph.hpp"
#include "job/chain/chain_access.hpp"

namespace tidemark {

class NodeAccess final : public ChainAccess {
 public:
  Task<> make_writable(BlockNode& node) override;
  Task<> make_read_only(BlockNode& node) override;
  Task<> uncover(BlockNode& image, Range range) override;
  Task<> give_back(BlockNode& image) override;
  Task<std::string> name_to_keep(BlockNode& node) override;
  Result<> check_size_change(const BlockNode& node) override;
  Task<> prepare_bitmaps(BlockNode& from, BlockNode& to) override;
  Task<> bring_bitmaps(BlockNode& from, BlockNode& to) override;
  void drop_bitmaps(BlockNode& from) noexcept override;
  Task<> forget_bitmaps(BlockNode& from) override;
};

}  // namespace tidemark
