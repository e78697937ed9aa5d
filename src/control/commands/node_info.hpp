// What nodes say of themselves, as QMP has it.
#pragma once

#include "block/graph.hpp"
#include "schema/info.hpp"

namespace tidemark {

// `flat` leaves out backing images.
Task<schema::ImageInfo> describe_image(BlockNode& node, bool flat);
Task<schema::BlockDeviceInfo> describe_node(BlockNode& node, bool flat);
std::vector<schema::BlockDirtyInfo> describe_bitmaps(const NodeBitmaps& bitmaps);

}  // namespace tidemark
