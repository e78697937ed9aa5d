// The bitmaps that a qcow2 image holds itself, and those of its node: how the ones become the others.
//
// Invariant: bits that were to be remembered are in what is stored, whatever holds them: a bitmap's own, those that a job
// froze, and those that were dropped and not yet forgotten.
#pragma once

#include "block/node.hpp"
#include "format/qcow2/driver.hpp"
#include "tracking/image_record.hpp"

namespace tidemark {

// The node's driver, when its format can hold bitmaps; else null.
Qcow2Driver* image_with_bitmaps(BlockNode& node) noexcept;

// Errc::corrupt: what the image says makes no sense.
Task<tracking::ImageRecord> read_image_bitmaps(Qcow2Driver& image);

// The node's persistent bitmaps are the image's, and nobody is using them: their digest.
Task<std::uint64_t> store_image_bitmaps(BlockNode& node, Qcow2Driver& image);

// What a node's image could not hold, as QEMU says it.
Result<> check_storable(BlockNode& node, const std::string& name, std::uint64_t granularity);
// The same of those that it has, with another size.
Result<> check_storable_at(BlockNode& node, std::uint64_t size);

}  // namespace tidemark
