// Whether two names lead to bytes that they share: one file by two names, a file and the loop device on it, a disk and its
// partition, a mapped device and what it is made of.
//
// The locks of images see the first alone: the others are different files to the kernel.
#pragma once

#include <string>

#include "io/reactor.hpp"

namespace tidemark::cli {

Task<bool> share_bytes(Reactor& reactor, std::string one, std::string other);

}  // namespace tidemark::cli
