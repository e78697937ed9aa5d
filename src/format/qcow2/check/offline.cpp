#include "format/qcow2/check/offline.hpp"

#include <algorithm>

#include "format/qcow2/check/checker.hpp"
#include "format/qcow2/layout/header_edit.hpp"

namespace tidemark::qcow2 {
namespace {

Task<> clear_l1(Edge& file, const Header& header) {
  const Range table{header.l1_at.value, header.l1_entries * entry_bytes};
  AlignedBuffer zeroes(std::min<std::uint64_t>(table.length, 1 * MiB));
  Buffers(zeroes.bytes()).fill_zero();
  for (std::uint64_t done = 0; done < table.length; done += zeroes.size()) {
    const std::uint64_t length = std::min<std::uint64_t>(zeroes.size(), table.length - done);
    co_await file.write(table.offset + done, Buffers(zeroes.bytes().first(length)));
  }
  co_await file.flush();
}

// What nothing refers to any more is given back to the file system, and the file ends where the image does.
Task<> give_back(Edge& file) {
  const HeaderEdit start = co_await HeaderEdit::read(file);
  CheckOptions options;
  CheckReport report;
  Checker checker(file, start.header(), options, report);
  co_await checker.run();
  if (!report.clean()) co_return;
  const Geometry& g = checker.geometry();
  CheckCounts& counts = checker.counts();
  for (std::uint64_t first = 0; first < checker.end_cluster();) {
    std::uint64_t end = first;
    while (end < checker.end_cluster() && counts[end] == 0) ++end;
    const Range unused = g.bytes_of({{first}, end - first});
    if (!unused.empty()) co_await file.discard(unused);
    first = end + 1;
  }
  const auto cut = co_await file.truncate(report.image_end).result();
  if (!cut && cut.error().code() != Errc::unsupported) co_await cut.error();
}

}  // namespace

Task<> change_backing(Edge& file, std::string name, std::string format) {
  HeaderEdit edit = co_await HeaderEdit::read(file);
  if (edit.header().has(Autoclear::data_file_raw) && !name.empty())
    co_await Error(Errc::invalid_argument, "qcow2: a raw external data file cannot have a backing file");
  std::optional<std::vector<std::byte>> said;
  if (!format.empty()) said.emplace(as_bytes(format).begin(), as_bytes(format).end());
  edit.set_extension(ExtensionType::backing_format, std::move(said));
  edit.set_backing_name(std::move(name));
  edit.set_autoclear(edit.header().autoclear & ~tracked_mask);
  co_await edit.write(file);
}

Task<> empty_image(Edge& file) {
  const HeaderEdit start = co_await HeaderEdit::read(file);
  if (start.header().has(Incompatible::data_file))
    co_await Error(Errc::unsupported, "qcow2: an image with an external data file cannot be emptied");
  co_await clear_l1(file, start.header());
  CheckOptions options;
  options.repair = Repair::all;
  const CheckReport report = co_await check_image(file, std::move(options));
  if (!report.clean()) co_await Error(Errc::corrupt, "qcow2: the image is damaged");
  co_await give_back(file);
  co_await file.flush();
}

}  // namespace tidemark::qcow2
