// Any bytes as an image's name of its backing file: a description of a plain file, or an error.
#include "control/graph/backing_names.hpp"
#include "tests/fuzz/input.hpp"

using namespace tidemark;

namespace {

// The gate once more, by what would be opened and not by how it is found.
bool is_plain(const schema::BlockdevOptions& node) {
  if (node.node_name || node.tracking) return false;
  if (std::holds_alternative<schema::BlockdevOptionsFile>(node.branch)) return true;
  const auto* raw = std::get_if<schema::BlockdevOptionsRaw>(&node.branch);
  const auto* image = std::get_if<schema::BlockdevOptionsQcow2>(&node.branch);
  if (!raw && (!image || image->backing || image->data_file)) return false;
  const auto* below = std::get_if<schema::Box<schema::BlockdevOptions>>(&(raw ? raw->file : image->file).value);
  return below && is_plain(**below);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr const char* formats[] = {"raw", "qcow2", "", "nbd"};
  if (size == 0) return 0;
  const std::string name(as_text(std::as_bytes(std::span(data + 1, size - 1))));
  for (const std::string& text : {name, "json:" + name}) {
    const auto described = describe_backing("/images/top.qcow2", text, formats[data[0] % 4]);
    if (!described) continue;
    TM_ASSERT(is_plain(*described));
    TM_ASSERT(!described->read_only);
    (void)file_of(*described);
  }
  return 0;
}
