// What the tests of the simulation share.
#pragma once

#include <gtest/gtest.h>

#include "io/file.hpp"
#include "io/sim/process.hpp"
#include "task/finally.hpp"

namespace tidemark {

inline Buffers out(const std::string& text) { return Buffers::of_const(as_bytes(text)); }
inline Buffers in(std::string& text) { return MutableBytes(std::as_writable_bytes(std::span(text))); }
inline OpenFlags writing() {
  OpenFlags flags;
  flags.write = flags.create = true;
  return flags;
}

// use(File&) -> Task<>
template <class Use>
Task<> with_file(Reactor& reactor, std::string path, OpenFlags flags, Use& use) {
  File file = co_await File::open(reactor, std::move(path), flags);
  auto close = [&file] { return file.close(); };
  co_await finally(use(file), close);
}

template <class Use>
Result<> use_file(SimProcess& process, std::string path, OpenFlags flags, Use use) {
  return process.run(with_file(process.reactor(), std::move(path), flags, use));
}

inline std::string text_of(const std::vector<std::byte>& bytes) { return std::string(as_text(bytes)); }

}  // namespace tidemark
