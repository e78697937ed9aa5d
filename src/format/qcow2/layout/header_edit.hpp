// HeaderEdit: the header's extensions and the backing file's name, read from an image's first cluster, changed, and written
// back in an order in which every moment's header can be read.
//
// What is not known of the header stays as it is.  A write that is cut off leaves the old or the new name; while an
// extension that others come after changes its length, a torn write can damage these.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/edge.hpp"
#include "format/qcow2/layout/header.hpp"

namespace tidemark::qcow2 {

class HeaderEdit {
 public:
  static Task<HeaderEdit> read(Edge& file);

  const Header& header() const noexcept { return header_; }
  // Without data: it goes.  A new one comes last, the backing format first.
  void set_extension(ExtensionType type, std::optional<std::vector<std::byte>> data);
  void set_backing_name(std::string name) { name_ = std::move(name); }
  void set_autoclear(std::uint64_t features) noexcept { autoclear_ = features; }

  Task<> write(Edge& file);
  // After a write that failed: what was read is there again, durable with the next flush.
  Task<> restore(Edge& file);

 private:
  struct Extension {
    std::uint32_t type = 0;
    std::vector<std::byte> data;
  };
  void parse();
  std::vector<std::byte> extensions() const;
  Result<> place_name(std::uint64_t behind);
  Task<> move_name(Edge& file);
  Task<> write_cluster(Edge& file);

  Header header_;
  std::vector<std::byte> cluster_, before_;
  std::vector<Extension> extensions_;
  std::string name_;
  Range old_name_;
  std::uint64_t name_at_ = 0;
  std::uint64_t autoclear_ = 0;
};

}  // namespace tidemark::qcow2
