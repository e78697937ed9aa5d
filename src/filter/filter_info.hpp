// What a filter says of itself: what the node below it does, but for what is that image's own.
#pragma once

#include "block/node.hpp"

namespace tidemark {

inline Task<ImageInfo> filter_info(BlockNode& below, std::string_view driver) {
  ImageInfo info = co_await below.driver().info();
  info.format = driver;
  info.backing_filename.clear();
  info.backing_format.clear();
  info.full_backing_filename.clear();
  info.qcow2.reset();
  co_return info;
}

}  // namespace tidemark
