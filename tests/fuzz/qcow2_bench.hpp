// For targets that use whole qcow2 images: files in memory, images opened on them, and good images to begin with.
#pragma once

#include <array>
#include <vector>

#include "block/graph.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/driver.hpp"
#include "io/sim/process.hpp"
#include "tests/fuzz/input.hpp"

namespace tidemark {

// An image, and its external data file where it has one.
struct FuzzImage {
  std::vector<std::byte> image, data;
};

class FuzzBench {
 public:
  static constexpr Permissions writes{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
  explicit FuzzBench(Reactor& reactor) : graph_(reactor) {}

  Task<> add_files(const FuzzImage& files);
  Task<> create(Qcow2CreateOptions options);
  Task<std::unique_ptr<Edge>> open(Qcow2OpenOptions options);
  Task<> close(std::unique_ptr<Edge> image);
  static Qcow2Driver& driver(Edge& image) { return dynamic_cast<Qcow2Driver&>(image.node().driver()); }
  Task<qcow2::CheckReport> check(qcow2::Repair repair);
  Task<qcow2::CheckReport> check_good();   // nothing is wrong that matters
  Task<FuzzImage> content();
  Task<std::vector<std::byte>> header();            // the image's first sector
  Task<> end() { return graph_.close_all(); }

 private:
  Task<BlockNode*> add_file(Bytes content);
  Task<std::vector<std::byte>> content_of(BlockNode& file);

  Graph graph_;
  BlockNode* image_ = nullptr;
  BlockNode* data_ = nullptr;
};

// Of every kind of image one that has some of everything: data, zeroes, compressed data; some snapshots and bitmaps.
enum class FuzzKind : std::uint8_t { zlib, zstd, extended, outside, storied, old };
inline constexpr std::size_t fuzz_kinds = 6;
const FuzzImage& good_image(FuzzKind kind);

Qcow2Snapshot fuzz_snapshot(std::string name);
std::vector<Qcow2Bitmap> fuzz_bitmaps(std::uint64_t disk_size, std::uint64_t count);

// Runs it with a world of its own; it does not fail.
void fuzz_run(const std::function<Task<>(Reactor&)>& body);

// The image that an input begins with: a kind and a number of changes, of eight bytes each (change_image); or, where the
// first byte is 255, all that is left.  `changed`: it is no longer as it was made.
struct FuzzStart {
  FuzzImage files;
  bool changed = false;
};
FuzzStart fuzz_start(FuzzInput& input);

// Operations that read, write, zero, discard and resize, as the input says.
Task<> fuzz_operate(Edge& image, FuzzInput& input);

}  // namespace tidemark
